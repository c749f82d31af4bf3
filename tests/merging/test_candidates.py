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

"""What every algorithm starts from: which tokens may merge, and their order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens, rank_by_energy


@pytest.mark.parametrize("name", ["valid", "special", "protected"])
@pytest.mark.parametrize("shape", [(3, 9), (3, 11), (2, 10), (4, 10)], ids=str)
def test_masks_for_other_tokens_are_refused(shape, name):
    features, spec = torch.randn(3, 10, 4), MergeSpec(KeepRatio.from_float(0.7))
    mask = torch.zeros(shape, dtype=torch.bool)
    said = f"mask of {name} tokens" if name != "valid" else "attention mask"
    message = f"The {said} is for {shape[0]} samples of {shape[1]} tokens, but there are 3 samples of 10 tokens"
    with pytest.raises(ValueError, match=message):
        match_tokens(features, spec, TokenMasks(**{name: mask}))


@pytest.mark.parametrize("shape", [(3, 10), (1, 10)], ids=str)
def test_masks_for_these_tokens_are_accepted(shape):
    features, masks = torch.randn(3, 10, 4), {"valid": torch.ones(shape, dtype=torch.bool)}
    masks["special"] = torch.zeros(3, 10, dtype=torch.bool)
    assert match_tokens(features, MergeSpec(KeepRatio.from_float(0.7)), TokenMasks(**masks)).kept.shape == (3, 7)


def test_a_layer_of_which_only_the_ratio_is_said():
    """PiToMe on the keys, by the nearest other token, with sizes wherever they count; importance is for models."""
    spec = MergeSpec(KeepRatio.from_float(0.9))
    assert (spec.algorithm, spec.energy, spec.metric, spec.after) == ("pitome", "nearest", "keys", "attention")
    assert (spec.margin, spec.alpha, spec.importance, spec.ratio.min_tokens) == (0.9, 1.0, 0.0, 0)
    assert spec.proportional_attention and spec.weighted_by == "sizes"


def test_who_may_merge():
    valid, special = torch.tensor([[True, True, True, False, True]]), torch.tensor([[False, False, True, True, False]])
    assert TokenMasks(2).mergeable() is None
    assert TokenMasks(1, valid).mergeable().tolist() == [[False, True, True, False, True]]
    assert TokenMasks(1, special=special).mergeable().tolist() == [[False, True, False, False, True]]
    assert TokenMasks(0, valid, special).mergeable().tolist() == [[True, True, False, False, True]]
    one_for_all = TokenMasks(2, valid, special.expand(2, -1)).mergeable()
    assert one_for_all.tolist() == [[False, False, False, False, True]] * 2


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(-40, 40), st.booleans()), min_size=1, max_size=12), st.sampled_from([0.25, 1e3]))
def test_the_ranking_is_a_stable_sort(tokens, step):
    """High energies first, equal ones in the order of the tokens, those that may not merge last."""
    energy, mergeable = (
        torch.tensor([[step * score for score, _ in tokens]]),
        torch.tensor([[may for _, may in tokens]]),
    )
    by_energy = sorted(range(len(tokens)), key=lambda i: -tokens[i][0])
    assert rank_by_energy(energy, None, len(tokens))[0].tolist() == by_energy
    expected = [i for i in by_energy if tokens[i][1]]
    assert rank_by_energy(energy, mergeable, len(tokens))[0, : len(expected)].tolist() == expected
    assert rank_by_energy(energy, None, (len(tokens) + 1) // 2)[0].tolist() == by_energy[: (len(tokens) + 1) // 2]


def test_energies_are_told_apart_in_steps_of_a_rounding_error():
    near = torch.tensor([[0.5, 0.5 + 2.0**-22, 0.5 - 2.0**-22, 0.5 + 2.0**-24]])
    assert rank_by_energy(near, None, 4)[0].tolist() == [1, 0, 3, 2]
