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

"""`multiple_of`: layers keep so many tokens, and all that counts tokens knows it."""

import pytest
import torch
from families.test_parity import largest_difference, of_sample
from families.test_parity import run as run_case
from modeling.helpers import CASES, build, run

from optimum_pitome import PiToMeConfig, apply_pitome, num_image_tokens, pitome_summary
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens
from optimum_pitome.methods import ALGORITHMS


def lengths(model):
    """Tokens that every layer returned."""
    found = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, args, output: found.append(output.shape[1]))
    run(model)
    return found


def test_every_layer_keeps_a_multiple():
    model = apply_pitome(build("ViTModel"), PiToMeConfig(0.8, multiple_of=8))
    found = lengths(model)
    assert found == [56, 48, 40, 40]  # of 39 patches 32 would stay, and with the class token 33
    assert [layer.tokens_out for layer in pitome_summary(model).layers] == found
    assert lengths(apply_pitome(build("ViTModel"), PiToMeConfig(0.8, multiple_of=1))) == [53, 43, 35, 29]
    assert lengths(apply_pitome(build("ViTModel"), PiToMeConfig(1.0, multiple_of=8))) == [65] * 4


@pytest.mark.parametrize("budget", [{"num_tokens": 33}, {"flops_ratio": 1.3}], ids=str)
def test_budgets_count_with_multiples(budget):
    found = lengths(apply_pitome(build("ViTModel"), PiToMeConfig(multiple_of=8, **budget)))
    assert all(length % 8 == 0 or length == 65 for length in found) and found[-1] < 65
    if "num_tokens" in budget:
        assert found[-1] == 32


@pytest.mark.parametrize("name", ["BertModel", "ModernBertModel", "Qwen3VLMoeVisionModel"])
def test_a_sample_does_not_depend_on_its_batch(name):
    if name not in CASES:
        pytest.skip("not in this transformers")
    case = CASES[name]
    model = apply_pitome(case.build(), PiToMeConfig(0.7, multiple_of=4))
    inputs = case.inputs(3)
    together = of_sample(case, run_case(model, inputs), 1, 3)
    assert largest_difference(together, of_sample(case, run_case(model, case.one_of(inputs, 1)), 0, 1)) < 1e-5


def test_an_image_takes_as_many_placeholders():
    case = CASES["LlavaForConditionalGeneration"]
    model, inputs = apply_pitome(case.build(), PiToMeConfig(0.8, multiple_of=4)), case.inputs(2)
    exact = num_image_tokens(apply_pitome(case.build(), 0.8))
    assert num_image_tokens(model) >= exact and (num_image_tokens(model) + 1) % 4 == 0
    run_case(model, inputs)  # which raises where features and placeholders differ in number


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("masked", [False, True])
def test_every_algorithm_keeps_what_the_layer_counts(algorithm, masked):
    keep = KeepRatio.from_float(0.7, multiple_of=8)
    features, valid = torch.randn(3, 41, 8), torch.arange(41) < torch.tensor([[41], [30], [12]])
    special = torch.arange(41) == torch.tensor([[40], [29], [11]])
    masks = TokenMasks(1, valid, special, 1) if masked else TokenMasks(1)
    masks = TokenMasks(**{**vars(masks), "attention": torch.rand(3, 41)})
    spec = MergeSpec(keep, algorithm)
    plan = match_tokens(features, spec, masks)
    assert plan.merge(features).shape[1] == 32
    left = plan.valid.sum(dim=1).tolist() if masked else [32] * 3
    assert left == ([32, 24, 12] if masked else [32] * 3)
