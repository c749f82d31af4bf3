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

"""What a search prints: where it had no room for a generation, small losses, and which loss it is."""

import pytest
import torch
from training.tiny import Pictures, tiny_vit
from tuning.test_search import vit

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.tuning.found import Found
from optimum_pitome.tuning.search import STARTS, search_ratios


def test_a_search_without_room_for_a_generation_says_so():
    def search(max_settings):
        batches = [{"pixel_values": Pictures(4).pixels}]
        limits = {"max_settings": max_settings, "seed": 0, "resume_from": None, "progress": False}
        return search_ratios(apply_pitome(tiny_vit(), 0.8), batches, flops_ratio=1.15, **limits)

    none_but_profiles = search(len(STARTS))
    assert search(len(STARTS) + none_but_profiles.num_missing).num_missing == 0
    means = 2 * 5  # with the best two profiles: by attention, half and all of the norm kept, and both
    found = search(len(STARTS) + means + 1)
    assert any(name.endswith(", weighted by attention") for name in found.profiles) and "weighted by" in str(found)
    assert found.num_settings == len(STARTS) + means
    assert f"Raise max_settings (--max-settings) by {found.num_missing} or more" in str(found)
    enough = search(len(STARTS) + means + 1 + found.num_missing)
    assert enough.num_settings > found.num_settings and enough.num_missing == 0 and "Raise" not in str(enough)


def test_small_losses_keep_their_digits():
    found = Found(PiToMeConfig(), 1.2346e-7, {"uniform": 2e-7}, num_settings=6, num_samples=4)
    assert "1.235e-07" in str(found) and "2e-07" in str(found)


@pytest.mark.parametrize(
    ("model", "distance", "name"),
    [
        (tiny_vit(), None, "the Kullback-Leibler divergence of the logits"),
        (vit(), None, "1 - cosine of the first token and of the mean token, the mean of the two"),
        (vit(), lambda merged, dense, inputs: torch.ones(4), "the distance that was passed"),
    ],
    ids=["logits", "features", "of one's own"],
)
def test_a_search_says_which_loss_it_minimises(model, distance, name):
    limits = {"max_settings": len(STARTS), "seed": 0, "resume_from": None, "progress": False}
    found = search_ratios(model, [{"pixel_values": Pictures(4).pixels}], None, distance, flops_ratio=1.1, **limits)
    assert found.loss_name == name and f"\nThe loss is {name}." in str(found)


def test_a_search_says_why_it_stopped():
    found = Found(PiToMeConfig(), 1e-3, {"uniform": 2e-3}, num_settings=47, num_samples=6, num_stale=6)
    assert "The search stopped since 6 generations together gained less than a percent" in str(found)
