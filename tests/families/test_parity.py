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

"""What must hold for every supported class, on a tiny model of each."""

import copy

import pytest
import torch
from zoo import all_cases, outputs_of

from optimum_pitome import apply_pitome, pitome_disabled, remove_pitome


CASES = all_cases()
implementations = pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def run(model, inputs):
    with torch.no_grad():
        return outputs_of(model(**inputs))


def largest_difference(outputs, others):
    assert outputs.keys() == others.keys()
    return max((outputs[name] - others[name]).abs().max().item() for name in outputs)


def of_sample(case, outputs, index, batch_size):
    """The part of the outputs that belongs to one sample of a batch."""
    found = {}
    for name, value in outputs.items():
        stem, _, number = name.rpartition(".")
        if name in case.of_batch:
            continue
        if stem in case.flat:  # a tuple
            if int(number) == index:
                found[stem] = value
        elif name in case.flat:
            found[name] = value.unflatten(0, (batch_size, -1))[index]
        else:
            found[name] = value[index, index] if name in case.across_samples else value[index]
    return found


@implementations
@each_case
def test_ratio_one_is_the_dense_model(case, attn_implementation):
    model, inputs = case.build(attn_implementation), case.inputs(2)
    dense = run(model, inputs)
    apply_pitome(model, 1.0)
    assert largest_difference(run(model, inputs), dense) <= case.tolerance


@implementations
@each_case
def test_merging_changes_the_output_and_can_be_undone(case, attn_implementation):
    model, inputs = case.build(attn_implementation), case.inputs(2)
    model_class, keys = type(model), list(model.state_dict())
    dense = run(model, inputs)
    assert apply_pitome(model, 0.8) is model
    merged = run(model, inputs)
    if case.shortens:
        name = "logits" if "logits" in dense else "embeddings"
        assert merged[name].shape[1] < dense[name].shape[1]
    else:
        assert {name: value.shape for name, value in merged.items()} == {k: v.shape for k, v in dense.items()}
        assert largest_difference(merged, dense) > 1e-6
    assert type(model) is model_class and list(model.state_dict()) == keys
    with pitome_disabled(model):
        assert largest_difference(run(model, inputs), dense) <= case.tolerance
    assert largest_difference(run(model, inputs), merged) == 0.0
    remove_pitome(model)
    assert largest_difference(run(model, inputs), dense) == 0.0
    assert not hasattr(model.config, "pitome")


@implementations
@each_case
def test_a_sample_does_not_depend_on_its_batch(case, attn_implementation):
    model = apply_pitome(case.build(attn_implementation), 0.8)
    inputs = case.inputs(3)
    together = of_sample(case, run(model, inputs), 1, 3)
    alone = of_sample(case, run(model, case.one_of(inputs, 1)), 0, 1)
    assert largest_difference(together, alone) < 1e-5


@each_case
def test_deepcopy(case):
    model, inputs = apply_pitome(case.build(), 0.8), case.inputs(2)
    merged = run(model, inputs)
    twin = copy.deepcopy(model)
    remove_pitome(model)
    assert largest_difference(run(twin, inputs), merged) == 0.0


@each_case
def test_forward_called_by_itself(case):
    """sentence-transformers calls `forward` itself, which passes by the hooks of `__call__`."""
    model, inputs = apply_pitome(case.build(), 0.8), case.inputs(2)
    with torch.no_grad():
        assert largest_difference(outputs_of(model.forward(**inputs)), run(model, inputs)) == 0.0
