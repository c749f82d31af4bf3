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

import contextlib

import pytest
import torch

from optimum_pitome.merging import (
    KeepRatio,
    MergeSpec,
    TokenMasks,
    match_tokens,
    rank_by_energy,
    ranking_by_comparison,
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


@pytest.mark.parametrize(
    ("algorithm", "compares"), [*((name, False) for name in sorted(ALGORITHMS)), ("pitome", True), ("tome", True)]
)
def test_one_trace_serves_lengths_at_which_nothing_merges(algorithm, compares):
    module = Merge(algorithm)
    with ranking_by_comparison() if compares else contextlib.nullcontext():
        traced = export(module, *tokens([30, 21]))
    for lengths in ([30, 21, 4], [57], [11, 5], [5, 4, 5], [4]):
        features, valid = tokens(lengths, seed=len(lengths))
        expected, found = module(features, valid), traced(features, valid)
        torch.testing.assert_close(found[valid], expected[valid], atol=1e-6, rtol=1e-6, msg=f"{lengths}")


def test_comparison_ranks_as_keys_do():
    """Equal energies, and tokens that may not merge, among them."""
    energy = torch.tensor([[0.5, 0.9, 0.5, -1.0, 0.9, 0.1, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    mergeable = torch.tensor([[True, True, True, True, False, True, True], [True] * 7])
    with ranking_by_comparison():
        traced = export(Rank(), energy, mergeable)
    assert traced(energy, mergeable).tolist() == [[1, 0, 2, 6, 5], [0, 1, 2, 3, 4]]
    assert rank_by_energy(energy, mergeable, 5).tolist() == [[1, 0, 2, 6, 5], [0, 1, 2, 3, 4]]
    nodes = {str(node.target) for node in traced.graph.nodes}
    assert not any("topk" in name or "sort" in name for name in nodes)


def test_the_order_of_comparison_ends_with_its_block():
    with pytest.raises(ValueError, match="stop"), ranking_by_comparison():
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
