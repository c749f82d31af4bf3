# Copyright 2026 The optimum_pitome authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What `torch.export` traces of the algorithms: it holds for every length, and ranks without integers of 64 bits."""

import pytest
import torch

from optimum_pitome.merging import (
    KeepRatio,
    MergeSpec,
    TokenMasks,
    exporting_for,
    match_tokens,
    rank_by_energy,
)
from optimum_pitome.methods import ALGORITHMS


class Merge(torch.nn.Module):
    """Merges tokens with padding, and gives every token the vector of its group."""

    def __init__(self, algorithm):
        super().__init__()
        self.spec = MergeSpec(KeepRatio.from_float(0.8), algorithm)

    def forward(self, features, valid):
        attention = features.abs().mean(dim=-1) if self.spec.reads_attention else None
        plan = match_tokens(features, self.spec, TokenMasks(valid=valid, attention=attention))
        return features if plan is None else plan.unmerge(plan.merge(features))


class Rank(torch.nn.Module):
    def forward(self, energy, mergeable):
        return rank_by_energy(energy, mergeable, 5)


def tokens(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(len(lengths), max(lengths), 8, generator=generator), valid


def export(module, *example):
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, example, dynamic_shapes=(axes,) * len(example))
    return program.module(check_guards=False)


def export_onnx(module, *example):
    """The same as a graph of ONNX, which ONNX Runtime runs, whatever it was written for."""
    onnxruntime = pytest.importorskip("onnxruntime")
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes = (axes,) * len(example)
    program = torch.onnx.export(
        module.eval(), example, dynamo=True, dynamic_shapes=shapes, opset_version=18, verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda *given: torch.from_numpy(session.run(None, dict(zip(names, (one.numpy() for one in given))))[0])


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_one_trace_serves_lengths_at_which_nothing_merges(algorithm):
    module = Merge(algorithm)
    check_lengths(module, export(module, *tokens([30, 21])))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_for_a_runtime_serves_them_too(runtime):
    module = Merge("pitome")
    with exporting_for(runtime):
        check_lengths(module, export_onnx(module, *tokens([30, 21])))


def check_lengths(module, traced):
    for lengths in ([30, 21, 4], [57], [11, 5], [5, 4, 5], [4]):
        features, valid = tokens(lengths, seed=len(lengths))
        expected, found = module(features, valid), traced(features, valid)
        torch.testing.assert_close(found[valid], expected[valid], atol=1e-6, rtol=1e-6, msg=f"{lengths}")


def test_comparison_ranks_as_keys_do():
    """Equal energies, and tokens that may not merge, among them."""
    energy = torch.tensor([[0.5, 0.9, 0.5, -1.0, 0.9, 0.1, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    mergeable = torch.tensor([[True, True, True, True, False, True, True], [True] * 7])
    with exporting_for("openvino"):
        traced = export(Rank(), energy, mergeable)
    assert traced(energy, mergeable).tolist() == [[1, 0, 2, 6, 5], [0, 1, 2, 3, 4]]
    assert rank_by_energy(energy, mergeable, 5).tolist() == [[1, 0, 2, 6, 5], [0, 1, 2, 3, 4]]
    nodes = {str(node.target) for node in traced.graph.nodes}
    assert not any("topk" in name or "sort" in name for name in nodes)


def test_the_order_of_comparison_ends_with_its_block():
    with pytest.raises(ValueError, match="stop"), exporting_for("openvino"):
        raise ValueError("stop")
    energy = torch.rand(2, 9)
    traced = export(Rank(), energy, torch.ones(2, 9, dtype=torch.bool))
    assert any("topk" in str(node.target) for node in traced.graph.nodes)


def test_an_exported_program_can_be_compiled():
    """Inductor computes an addition to one expanded zero wrongly: none may be left in what was exported."""
    generator = torch.Generator().manual_seed(0)
    features, valid = torch.randn(2, 12, 8, generator=generator), torch.ones(2, 12, dtype=torch.bool)
    merge = Merge("pitome")
    program = torch.export.export(merge, (features, valid)).module()
    torch.testing.assert_close(torch.compile(program)(features, valid), merge(features, valid))


class MergeAll(torch.nn.Module):
    """Merges tokens of equal number, after `num_prefix` special ones: hidden states, sizes, and every token again."""

    def __init__(self, num_prefix=1, **settings):
        super().__init__()
        self.spec, self.num_prefix = MergeSpec(KeepRatio.from_float(0.7), **settings), num_prefix

    def forward(self, features, sizes):
        masks = TokenMasks(self.num_prefix, attention=features.abs().mean(dim=-1))
        plan = match_tokens(features, self.spec, masks)
        merged = plan.merge(features, sizes)
        return torch.cat(
            [merged, plan.merge_sizes(sizes).unsqueeze(-1).expand_as(merged), plan.unmerge(merged)], dim=1
        )


@pytest.mark.parametrize(
    ("settings", "runtime"), [({}, "onnx"), ({"num_prefix": 0, "importance": 0.0}, "onnx"), ({}, "openvino")], ids=str
)
def test_a_graph_for_a_runtime_merges_as_pytorch_does(settings, runtime):
    """Tokens that are equal, and one that is zero, among them."""
    module = MergeAll(**settings)
    with exporting_for(runtime):
        traced = export_onnx(module, torch.randn(2, 25, 8), torch.ones(2, 25))
    for batch_size in (1, 4):
        features = torch.randn(batch_size, 25, 8, generator=torch.Generator().manual_seed(batch_size))
        features[:, 5:8], features[:, 12] = features[:, 4:5], 0.0
        sizes = torch.arange(1.0, 26.0).expand(batch_size, -1)
        torch.testing.assert_close(traced(features, sizes), module(features, sizes), atol=1e-5, rtol=1e-5)


def test_a_graph_for_onnx_runtime_has_few_nodes():
    """Each costs some two microseconds. A number here that grows is a merge that got slower."""
    onnx = pytest.importorskip("onnx")
    del onnx
    module, example = MergeAll(), (torch.randn(2, 25, 8), torch.ones(2, 25))
    axes = ({0: torch.export.Dim.DYNAMIC},) * 2
    numbers = []
    for runtime in ("onnx", None):
        with exporting_for(runtime):
            program = torch.onnx.export(
                module, example, dynamo=True, dynamic_shapes=axes, opset_version=18, verbose=False
            )
        numbers.append(len(program.model_proto.graph.node))
    assert numbers[0] <= 66 and numbers[0] < numbers[1] - 10
