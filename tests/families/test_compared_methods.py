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

"""The algorithms that the paper compares with, on a model of every configuration: heads do not change what they do."""

import pytest
import torch
from families.test_parity import largest_difference, of_sample, run
from zoo import all_cases, one_per_encoder

from optimum_pitome import apply_pitome, pitome_summary


COMPARED = {
    **{name: {"algorithm": name} for name in ("mutual", "tofu", "dct", "diffrate")},
    "attention": {"weighted_by": "attention", "keep_norm": 0.5},
}
each_case = pytest.mark.parametrize("case", one_per_encoder(), ids=lambda case: case.id)


def merging(case, algorithm, ratio=0.8):
    """The rewritten model; `None` where no class token attends, which `diffrate` refuses."""
    try:
        return apply_pitome(case.build(), {"ratio": ratio, **COMPARED[algorithm]})
    except ValueError as error:
        assert algorithm in ("diffrate", "attention") and "tokens by the attention of the class token" in str(error)
        return None


@each_case
def test_diffrate_is_refused_where_importance_is(case):
    try:
        weighs = apply_pitome(case.build(), {"ratio": 0.8, "importance": 0.5})
    except ValueError:
        weighs = None
    assert (merging(case, "diffrate") is None) == (merging(case, "attention") is None) == (weighs is None)


@pytest.mark.parametrize("algorithm", COMPARED)
@each_case
def test_a_merged_sample_does_not_depend_on_its_batch(case, algorithm):
    if (model := merging(case, algorithm)) is None:
        return
    inputs = case.inputs(3)
    outputs = run(model, inputs)
    assert all(value.isfinite().all() for value in outputs.values() if value.is_floating_point())
    together = of_sample(case, outputs, 1, 3)
    alone = of_sample(case, run(model, case.one_of(inputs, 1)), 0, 1)
    assert largest_difference(together, alone) < 2e-5


@pytest.mark.parametrize("algorithm", COMPARED)
@each_case
def test_shapes_and_lengths_are_those_of_every_algorithm(case, algorithm):
    dense, inputs = run(case.build(), case.inputs(2)), case.inputs(2)
    if (model := merging(case, algorithm)) is None:
        return
    merged = run(model, inputs)
    if not case.shortens:
        assert {name: value.shape for name, value in merged.items()} == {k: v.shape for k, v in dense.items()}
        assert largest_difference(merged, dense) > 1e-6
    usual = pitome_summary(apply_pitome(case.build(), 0.8))
    assert [layer.tokens_out for layer in pitome_summary(model).layers] == [layer.tokens_out for layer in usual.layers]
    dense_again = run(merging(case, algorithm, ratio=1.0), inputs)
    assert largest_difference(dense_again, dense) <= case.tolerance


@pytest.mark.parametrize("algorithm", COMPARED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(algorithm, dtype):
    for case in all_cases():
        if case.id not in ("ViTModel", "BertModel", "Dinov2WithRegistersModel", "DINOv3ViTModel"):
            continue
        model = apply_pitome(case.build(dtype=dtype), {"ratio": 0.8, **COMPARED[algorithm]})
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.inputs(2).items()}
        hidden_states = run(model, inputs)["last_hidden_state"]
        assert hidden_states.dtype == dtype and hidden_states.isfinite().all()


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("algorithm", COMPARED)
def test_gradients_and_checkpointing(algorithm):
    for case in all_cases():
        if case.id not in ("ViTModel", "BertModel"):
            continue
        found = []
        for checkpointing in (False, True):
            model = apply_pitome(case.build(), {"ratio": 0.8, **COMPARED[algorithm]}).train()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            if checkpointing:
                model.gradient_checkpointing_enable()
            model(**case.inputs(2)).last_hidden_state.square().sum().backward()
            found.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
        dense = case.build()
        dense(**case.inputs(2)).last_hidden_state.square().sum().backward()
        reached = {name for name, value in dense.named_parameters() if value.grad is not None}
        assert found[0].keys() == found[1].keys() == reached
        for name, gradient in found[0].items():
            assert gradient.isfinite().all()
            torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-4)
