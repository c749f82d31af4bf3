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

"""Mutual nearest neighbours by hand."""

import torch
from merging.test_matching import directions, match, pairs_of, survivors

from optimum_pitome.merging import TokenMasks


def test_mutual_pairs_merge_first():
    # Nearest neighbours: 0 and 1 (3 degrees), 3 and 4 (1 degree) are mutual; 2 points at 1, 5 at 4 (both 2 degrees).
    features = directions(0, 3, 5.5, 100, 101, 103)
    assert pairs_of(match(features, 0.8, algorithm="mutual")) == {4: 3}
    # Tokens 2 and 1 are closer than 0 and 1, so that those two are the pair; then 5, which is closer than 0, joins.
    assert pairs_of(match(features, 0.6, algorithm="mutual")) == {4: 3, 2: 1}
    plan = match(features, 0.5, algorithm="mutual")
    assert pairs_of(plan) == {4: 3, 2: 1, 5: 3}
    assert plan.kept.tolist() == [[0, 1, 3]]


def test_chains_end_in_their_mutual_pair():
    # 8 points at 6, 6 at 3, 3 at 1, and 1 and 0 at each other: all of them one group.
    features = directions(0, 1, 3, 6, 10, 15, 21)
    plan = match(features, 0.5, algorithm="mutual")
    assert pairs_of(plan) == {1: 0, 2: 0, 3: 0}
    sizes = plan.merge_sizes(torch.ones(1, 7))
    assert sizes.tolist() == [[4, 1, 1, 1]]


def test_equal_tokens_do_not_turn_in_circles():
    plan = match(torch.ones(1, 8, 4), 0.5, algorithm="mutual")
    assert pairs_of(plan) == {1: 0, 2: 0, 3: 0, 4: 0}


def test_where_many_are_protected_one_token_stays():
    # Of six tokens two are protected, and k = 3 are to go: more than the mutual pairs (0, 1) and (2, 3) have to give.
    # The closer pair joins the other.
    features = directions(0, 2, 90, 91, 180, 270)
    protected = torch.tensor([[False] * 4 + [True] * 2])
    plan = match(features, 0.5, TokenMasks(protected=protected), algorithm="mutual")
    assert pairs_of(plan) == {1: 0, 2: 0, 3: 0}
    assert survivors(plan) == [0, 4, 5]


def test_padding_points_at_nothing():
    features = directions(0, 3, 5.5, 100, 101, 103)
    padded = torch.cat([features, torch.zeros(1, 4, 2)], dim=1)
    valid = torch.tensor([[True] * 6 + [False] * 4])
    plan = match(padded, 0.5, TokenMasks(valid=valid), algorithm="mutual")
    assert pairs_of(plan) == {4: 3, 2: 1, 5: 3} and survivors(plan) == [0, 1, 3]
