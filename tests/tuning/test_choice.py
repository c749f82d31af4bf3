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

"""The fewest operations that keep what the dense model says."""

import pytest
import torch
from training.tiny import Pictures, tiny_vit
from tuning.test_search import kept, lively, vit
from tuning.test_speed import Clock

from optimum_pitome import PiToMeConfig, find_budget, pitome_summary
from optimum_pitome.analysis.loss import Samples
from optimum_pitome.modeling.rewrite import rewritten_encoders


def removed(model) -> float:
    """How much of the tokens the last layer removes."""
    return 1 - kept(model)[-1]


def test_the_largest_budget_that_keeps_the_loss():
    model = vit()
    model.train().layers[0].eval()  # frozen
    inputs = [{"pixel_values": Pictures(16).pixels}]

    def distance(merged, dense, inputs):  # grows with what is removed: the bound says which budget is meant
        return torch.full((16,), removed(model)) + torch.linspace(0, 1e-6, 16)

    choice = find_budget(model, inputs, max_loss=0.2, distance=distance, progress=False)
    assert model.training and not model.layers[0].training
    assert removed(model) <= 0.2 < removed(apply_next(model, choice.flops_ratio))
    assert choice.config.flops_ratio == choice.flops_ratio and choice.num_samples == 16
    assert choice.low <= choice.value <= choice.high <= 0.2
    assert f"{choice.flops_ratio:.2f}x fewer operations: loss 0.1" in str(choice)
    # The next budget, and how far it is from the bound.
    assert choice.next.flops_ratio == pytest.approx(choice.flops_ratio + 0.05)
    assert choice.next.value == pytest.approx(removed(apply_next(model, choice.flops_ratio)), abs=1e-5)
    assert choice.next.low <= choice.next.value <= choice.next.high and choice.next.high > 0.2
    bound = "does not keep the bound, for which the whole interval counts: loss"
    assert f"\n{choice.next.flops_ratio:.2f}x {bound} {choice.next.value:.4g}" in str(choice)


def test_no_budget_is_beyond_the_largest():
    choice = find_budget(lively(tiny_vit()), [{"pixel_values": Pictures(8).pixels}], max_loss=1e6, progress=False)
    assert choice.next is None and "does not keep the bound" not in str(choice)
    last = "Operations are counted at 65 tokens. The loss is the Kullback-Leibler divergence of the logits."
    assert str(choice).splitlines()[1:] == [last]


def apply_next(model, budget):
    from optimum_pitome import apply_pitome

    return apply_pitome(model, PiToMeConfig(flops_ratio=round(budget + 0.05, 2)))


def test_agreement_counts_with_its_interval():
    torch.manual_seed(0)
    model = lively(tiny_vit())
    inputs = [{"pixel_values": Pictures(64).pixels}]
    choice = find_budget(model, inputs, min_agreement=0.5, progress=False)
    assert choice.name == "agreement" and choice.low >= 0.5 and choice.low < choice.value
    assert pitome_summary(model).flops_ratio >= choice.flops_ratio
    # 64 inputs cannot show 99 %, even if all agree.
    with pytest.raises(ValueError, match="64 inputs cannot show an agreement of 0.99.*at least 381 inputs"):
        find_budget(model, inputs, min_agreement=0.99, progress=False)
    assert model.config.pitome["flops_ratio"] == choice.flops_ratio


@pytest.mark.parametrize("bound", [{"max_loss": 1.0}, {"speed_up": 1.5}], ids=str)
@pytest.mark.parametrize("batches, message", [({"pixel_values": 0}, "one batch"), ([], "No calibration batches")])
def test_batches_are_a_list(bound, batches, message):
    with pytest.raises(ValueError, match=message):
        find_budget(vit(), batches, **bound, progress=False)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "Give min_agreement, max_loss or speed_up"),
        ({"min_agreement": 0.9, "max_loss": 1}, "one of them"),
        ({"min_agreement": 99}, r"min_agreement=99 is out of range: expected a number in \[0, 1\)"),
        ({"max_loss": 0}, "max_loss=0 is out of range"),
        ({"speed_up": 1}, r"speed_up=1 is out of range: expected a number in \[1.01, 100\]"),
        ({"speed_up": 1.5, "max_loss": 1}, "one of them"),
        ({"max_loss": "0.01"}, "max_loss='0.01': expected a number"),
        ({"min_agreement": 0.9}, "gives no classes to agree on.*max_loss"),
    ],
)
def test_errors_leave_the_model_dense(arguments, message):
    model = vit()
    with pytest.raises(ValueError, match=message):
        find_budget(model, [{"pixel_values": Pictures(4).pixels}], progress=False, **arguments)
    assert not rewritten_encoders(model)


def test_the_lower_end_of_the_interval_has_to_reach_the_bound(monkeypatch):
    model, inputs = lively(tiny_vit()), [{"pixel_values": Pictures(64).pixels}]
    monkeypatch.setattr(Samples, "agreement", lambda self: torch.arange(64) < 39)  # 61 %, and 49 % at the lower end
    with pytest.raises(ValueError, match=r"No budget keeps min_agreement=0.5.*agreement is 0.6094"):
        find_budget(model, inputs, min_agreement=0.5, progress=False)


@pytest.mark.parametrize("bound", [{"max_loss": 1e6}, {"speed_up": 1.2}], ids=str)
def test_the_budget_is_for_the_pictures_at_hand(bound):
    model = lively(tiny_vit(image_size=64))
    inputs = [{"pixel_values": Pictures(8).pixels, "interpolate_pos_encoding": True}]
    timing = {"timing": Clock()} if "speed_up" in bound else {}
    choice = find_budget(model, inputs, **bound, **timing, progress=False)
    assert choice.config.image_size == model.config.pitome["image_size"] == 32
    summary = pitome_summary(model)
    assert summary.tokens[0] == 65 and summary.flops_ratio == pytest.approx(choice.flops_ratio, abs=0.05)
    # A size in the settings of the model stays.
    model.config.pitome = {"flops_ratio": 1.2, "image_size": 48}
    assert find_budget(model, inputs, **bound, **timing, progress=False).config.image_size == 48
