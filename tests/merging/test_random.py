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

"""Random pruning: drops what the hash says, and behaves like chance."""

import pytest
import torch
from merging.reference import hash_position

from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens


RATIO = KeepRatio.from_float(0.8)


def drop(num_tokens, ratio, masks=None, batch_size=1):
    features = torch.randn(batch_size, num_tokens, 2)
    return match_tokens(features, MergeSpec(KeepRatio.from_float(ratio), algorithm="random"), masks)


def test_every_sample_every_run_and_every_value_drop_the_same():
    plan = drop(50, 0.8, TokenMasks(1), batch_size=3)
    torch.manual_seed(5)
    again = drop(50, 0.8, TokenMasks(1))
    assert torch.equal(plan.kept, again.kept.expand(3, -1))


def test_every_release_drops_the_same():
    """Results with `random` are floors that others are compared with: they must be found again."""
    found = {length: sorted(drop(length, 0.6, TokenMasks(1)).source[0].tolist()) for length in (20, 21, 40)}
    assert found == {
        20: [2, 8, 10, 15, 16, 17, 18],
        21: [2, 5, 6, 7, 8, 11, 19, 20],
        40: [3, 8, 9, 10, 12, 15, 18, 19, 20, 28, 30, 32, 34, 35, 38],
    }
    # Padding takes no part: the sample's own length decides, as if it were alone.
    valid = torch.arange(26)[None] < torch.tensor([[20], [26], [21]])
    plan = drop(26, 0.6, TokenMasks(1, valid), batch_size=3)
    assert sorted(plan.source[0, plan.source_mask[0]].tolist()) == found[20]
    assert sorted(plan.source[2, plan.source_mask[2]].tolist()) == found[21]


def test_the_drops_look_like_chance():
    """Over 400 lengths, each position goes about as often, alone of its neighbours and of the length before."""
    gone = torch.zeros(400, 50)
    for row, length in enumerate(range(50, 450)):
        source = drop(length, 0.8).source[0]
        gone[row, source[source < 50]] = 1
    # Binomial with p = 0.2: the mean of 400 has a standard deviation of 0.02, of 20000 products with mean 0.04 0.0014.
    assert (gone.mean(dim=0) - 0.2).abs().max() < 4 * 0.02
    assert abs((gone[:, 1:] * gone[:, :-1]).mean().item() - 0.04) < 4 * 0.0014
    assert abs((gone[1:] * gone[:-1]).mean().item() - 0.04) < 4 * 0.0014


def test_what_is_dropped_is_gone():
    plan = drop(30, 0.6, TokenMasks(1))
    hidden_states, sizes = torch.randn(1, 30, 4), torch.rand(1, 30)
    assert torch.equal(plan.merge(hidden_states, sizes), hidden_states[:, plan.kept[0]])
    assert torch.equal(plan.merge_sizes(sizes), sizes[:, plan.kept[0]])


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_unmerge_takes_the_nearest_survivor_in_the_sequence(side):
    position = torch.arange(24)[None]
    valid = {"none": None, "left": position >= 4, "right": position < 20}[side]
    special = position == 12
    plan = drop(24, 0.6, TokenMasks(5, valid, special, 1))
    count = 24 if plan.valid is None else int(plan.valid[0].sum())
    mergeable = (TokenMasks(5, valid, special, 1).mergeable())[0].tolist()
    kept = plan.kept[0, :count].tolist()
    candidates = [token for token in kept if mergeable[token]]
    dropped = [token for token in range(24) if mergeable[token] and token not in kept]
    assert len(dropped) == KeepRatio.from_float(0.6).num_removed(sum(mergeable))
    for token in dropped:
        nearest = min(candidates, key=lambda other: (abs(other - token), other))
        assert kept[plan.assignment[0, token]] == nearest


def test_another_seed_drops_others():
    features, masks = torch.randn(1, 50, 2), TokenMasks(1)
    gone = [
        set(match_tokens(features, MergeSpec(RATIO, "random", random_seed=seed), masks).source[0].tolist())
        for seed in range(20)
    ]
    assert len({frozenset(one) for one in gone}) == 20
    # Of 9 among 49, two drawings have 81 / 49 in common on the average, and seldom more than half.
    common = [len(gone[i] & gone[j]) for i in range(20) for j in range(i)]
    assert abs(sum(common) / len(common) - 81 / 49) < 0.3


def test_a_random_split_by_hand():
    """Of ten tokens, the four of highest energy take part; each that chance takes joins the nearest of the others."""
    angles = torch.tensor([0.0, 10.0, 40.0, 90.0, 98.0, 130.0, 170.0, 215.0, 260.0, 310.0])
    features = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], dim=-1)[None]

    def pairs(seed):
        plan = match_tokens(features, MergeSpec(RATIO, "pitome_random_split", energy="nearest", random_seed=seed))
        kept = plan.kept[0].tolist()
        groups = {token: kept[slot] for token, slot in enumerate(plan.assignment[0].tolist())}
        return {token: target for token, target in groups.items() if token != target}

    found = [pairs(seed) for seed in range(30)]
    for seed, merged in enumerate(found):
        shuffled = sorted((0, 1, 3, 4), key=lambda token: hash_position(token, 10, seed), reverse=True)
        nearest = {
            source: min(shuffled[2:], key=lambda other: abs(angles[other] - angles[source])) for source in shuffled[:2]
        }
        assert merged == nearest
    # Each of the six ways to halve four tokens turns up.
    assert len({frozenset(merged) for merged in found}) == 6
