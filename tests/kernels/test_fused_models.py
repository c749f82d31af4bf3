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

"""Rewritten models whose merge step runs in Triton's interpreter."""

import pytest
import torch
from modeling.counting import operations_of_layers
from modeling.helpers import CASES
from modeling.test_launches import layers_of
from torch._dynamo.testing import CompileCounterWithBackend

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled
from optimum_pitome.kernels import choice
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens


pytestmark = pytest.mark.usefixtures("kernels_on")


def build(name, **settings):
    case = CASES[name]
    model = apply_pitome(case.build().eval(), PiToMeConfig(ratio=0.8, **settings))
    inputs = case.inputs(2)
    if name == "BertModel":
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["attention_mask"][1, -3:] = 0
    return model, inputs


def without_kernels(function):
    with choice.without_kernels():
        return function()


@pytest.mark.parametrize("name", ["ViTModel", "BertModel"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"importance": 0.0}, {"algorithm": "tome", "importance": 0.75, "weighted_by": "attention"}],
    ids=["defaults", "no importance", "those of texts with a budget"],
)
def test_a_merging_layer_has_at_most_six_launches(name, settings, launches):
    model, inputs = build(name, **settings)
    model.set_attn_implementation("sdpa")
    expected = without_kernels(lambda: model(**inputs).last_hidden_state.detach())
    with torch.no_grad():
        merged = operations_of_layers(model, inputs, layers_of(model))
        num_launches = len(launches)
        torch.testing.assert_close(model(**inputs).last_hidden_state, expected, atol=2e-6, rtol=0)
        with pitome_disabled(model):
            dense = operations_of_layers(model, inputs, layers_of(model))
    names = [] if settings.get("importance") == 0 else ["class_attention_kernel"]
    names += ["factors_kernel", "energies_kernel", "rank_kernel", "match_kernel", "merge_kernel"]
    merging = num_launches // len(names)
    assert merging >= 3 and launches[:num_launches] == names * merging
    # Nothing else is launched in a layer, but what makes room in memory and, once, reads the masks of the model.
    for number, (after, before) in enumerate(zip(merged[1:-1], dense[1:-1]), start=1):
        after.subtract(before)
        added = {name: count for name, count in after.items() if count > 0 and "empty" not in name}
        assert added == {}, (number, added)


@pytest.mark.parametrize("settings", [{}, {"weighted_by": "attention"}, {"keep_norm": 0.5}], ids=str)
def test_gradients_reach_every_parameter(settings):
    model, inputs = build("ViTModel", **settings)

    def gradients():
        model.zero_grad()
        model(**inputs).last_hidden_state.square().sum().backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    expected, found = without_kernels(gradients), gradients()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=3e-5, rtol=1e-3)


def test_compiled_with_and_without_gradients():
    """One graph for two batch sizes, in which matching and merging are operators."""
    model, inputs = build("ViTModel")
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for size in (2, 3, 4):
        inputs = CASES["ViTModel"].inputs(size)
        expected = without_kernels(lambda: model(**inputs).last_hidden_state)
        with torch.no_grad():
            torch.testing.assert_close(compiled(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert len(graphs) == 2  # the second one has an open batch
    for names in graphs:
        for name in ("match_fused", "merge_fused", "class_attention_fused"):
            assert sum(name in target for target in names) >= 3
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    parameter = next(model.parameters())
    (expected,) = torch.autograd.grad(model(**inputs).last_hidden_state.square().sum(), parameter)
    (found,) = torch.autograd.grad(compiled(**inputs).last_hidden_state.square().sum(), parameter)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_switching_off_reaches_compiled_models():
    model, inputs = build("ViTModel", importance=0.0)
    torch._dynamo.reset()
    seen = []

    def backend(graph, _):
        seen.append(any("match_fused" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        compiled(**inputs)
        without_kernels(lambda: compiled(**inputs))
    assert seen == [True, False]


def test_operators_hold_what_they_promise():
    """Shapes, dtypes, no aliases, gradients: what compilers, exports and CUDA graphs rely on."""
    keys, hidden_states = torch.randn(2, 2, 20, 8), torch.randn(2, 20, 5, requires_grad=True)
    spec, valid = MergeSpec(KeepRatio.from_float(0.7), importance=0.5), torch.arange(20) < torch.tensor([[20], [14]])
    paid, sizes = torch.rand(2, 4, 20), torch.ones(2, 20)
    operators, numbers = torch.ops.optimum_pitome, (3, 10, 0, 1, "nearest", 0.9, 1.0, 0.25)
    torch.library.opcheck(operators.match_fused.default, (keys, paid, valid, valid & False, None, 1, 5, 15, *numbers))
    torch.library.opcheck(operators.match_fused.default, (keys, None, None, None, None, 1, 5, 15, *numbers))
    of_tome = (3, 10, 0, 1, "tome", 0.0, 1.0, 0.25)
    torch.library.opcheck(operators.match_fused.default, (keys, paid, valid, None, None, 1, 5, 15, *of_tome))
    torch.library.opcheck(operators.class_attention_fused.default, (keys, keys, None, valid, 0.3))
    plan = match_tokens(keys, spec, TokenMasks(1, valid, attention=paid))
    pairs = plan.kept, plan.source, plan.target, plan.source_mask, plan.valid
    for moved in ((None, None, None), (plan.rows, valid, valid)):
        attention = None if moved[0] is None else paid
        arguments = (hidden_states, sizes, plan.rows, plan.counted, *pairs, *moved, attention, True)
        torch.library.opcheck(operators.merge_fused.default, arguments)


def test_operators_export():
    numbers = 3, 10, 0, 1, "nearest", 0.9, 1.0, 0.0

    class Matching(torch.nn.Module):
        def forward(self, keys):
            return torch.ops.optimum_pitome.match_fused(keys, None, None, None, None, 1, 5, 15, *numbers)[0]

    spec, keys = MergeSpec(KeepRatio.from_float(0.7)), torch.randn(2, 2, 20, 8)
    exported = torch.export.export(Matching(), (keys,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    keys = torch.randn(3, 2, 20, 8)
    assert torch.equal(exported.module()(keys), match_tokens(keys, spec, TokenMasks(1)).rows)


def test_layers_that_are_compiled_one_by_one_share_graphs():
    model, inputs = build("ViTModel")
    apply_pitome(model, {"ratio": [0.8, 0.7, 0.85, 0.6]})
    counter = CompileCounterWithBackend("eager")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        for layer in model.layers:
            layer.compile(backend=counter, dynamic=True)
        torch.testing.assert_close(model(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 2
