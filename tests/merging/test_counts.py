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

"""How many tokens go: exact decimal arithmetic."""

from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging.reference import num_removed

from optimum_pitome.merging import KeepRatio


@pytest.mark.parametrize(
    ("num_mergeable", "ratio", "removed"),
    [
        (10, 0.9, 1),
        (196, 0.9, 19),
        (100, 0.95, 5),
        (40, 0.975, 1),
        (39, 0.975, 0),
        (3, 0.7, 0),
        (7, 0.5, 3),
        (9, 1.0, 0),
    ],
)
def test_counts_by_hand(num_mergeable, ratio, removed):
    assert KeepRatio.from_float(ratio).num_removed(num_mergeable) == removed
    assert KeepRatio.from_float(ratio).is_dense == (ratio == 1)


def test_the_fraction_by_hand():
    assert KeepRatio.from_float(0.925) == KeepRatio(3, 40) == KeepRatio(3, 40, min_tokens=0)
    assert KeepRatio.from_float(0.925, 7) == KeepRatio(3, 40, 7)
    assert KeepRatio.from_float(1 / 3) == KeepRatio(666_666_667, 10**9)  # the removed part of a third, nine digits
    assert KeepRatio.from_float(1.0) == KeepRatio(0, 1)


@given(st.integers(0, 10**6), st.integers(0, 500_000))
def test_counts_are_exact_for_every_decimal(num_mergeable, millionths):
    ratio = 1 - Decimal(millionths) / 10**6
    assert KeepRatio.from_float(float(ratio)).num_removed(num_mergeable) == num_removed(num_mergeable, str(ratio))


def test_tensors_and_integers_agree():
    numbers = torch.arange(3000)
    for ratio, min_tokens in ((0.9, 0), (0.85, 0), (1 / 3 + 0.5, 0), (0.925, 0), (0.8, 64)):
        keep = KeepRatio.from_float(ratio, min_tokens)
        assert keep.num_removed(numbers).tolist() == [keep.num_removed(number) for number in numbers.tolist()]


@pytest.mark.parametrize(("num_mergeable", "removed"), [(100, 20), (80, 16), (70, 6), (64, 0), (63, 0), (0, 0)])
def test_so_many_tokens_stay_in_any_case(num_mergeable, removed):
    assert KeepRatio.from_float(0.8, min_tokens=64).num_removed(num_mergeable) == removed


@given(st.integers(0, 3000), st.integers(0, 300), st.integers(500, 1000))
def test_what_is_left_never_falls_with_the_length(num_mergeable, min_tokens, thousandths):
    """So the output of the longest sample of a batch has room for any other's."""
    keep = KeepRatio.from_float(thousandths / 1000, min_tokens)
    removed, of_one_more = keep.num_removed(num_mergeable), keep.num_removed(num_mergeable + 1)
    assert removed <= of_one_more <= removed + 1
    assert num_mergeable - removed >= min(num_mergeable, min_tokens)


@pytest.mark.parametrize(
    ("num_mergeable", "num_special", "left"),
    [(196, 1, 168), (199, 1, 176), (65, 0, 56), (9, 1, 10), (6, 0, 6), (7, 1, 8)],
)
def test_what_is_left_is_a_multiple_by_hand(num_mergeable, num_special, left):
    keep = KeepRatio.from_float(0.85, multiple_of=8)
    assert num_special + keep.num_kept(num_mergeable, num_special) == left
    assert num_special + num_mergeable - keep.num_removed(num_mergeable, num_special) == left


@given(
    st.integers(0, 3000),
    st.integers(0, 5),
    st.integers(0, 300),
    st.integers(500, 1000),
    st.sampled_from([1, 2, 8, 64]),
)
def test_what_is_left_is_a_multiple(num_mergeable, num_special, min_tokens, thousandths, multiple):
    keep = KeepRatio.from_float(thousandths / 1000, min_tokens, multiple)
    exact = KeepRatio.from_float(thousandths / 1000, min_tokens)
    removed = keep.num_removed(num_mergeable, num_special)
    left = num_special + num_mergeable - removed
    assert left % multiple == 0 or removed == 0  # nothing goes where there are too few
    assert max(0, exact.num_removed(num_mergeable) - multiple) < removed + 1 <= exact.num_removed(num_mergeable) + 1
    assert keep.num_kept(num_mergeable, num_special) == num_mergeable - removed
    tensor = keep.num_removed(torch.tensor([num_mergeable]), torch.tensor([num_special]))
    assert tensor.tolist() == [removed] and removed <= keep.most_removed(num_mergeable + 1)
    # Room for every other sample of the batch: one with fewer tokens, or with fewer that are special.
    for fewer, others in ((num_mergeable - 1, num_special), (num_mergeable + 1, num_special - 1)):
        if fewer >= 0 and others >= 0:
            assert others + keep.num_kept(fewer, others) <= left


#: The column "tokens left at .9 (with CLS)" of the paper's table: patches, other tokens, layers, tokens left.
TOKENS_LEFT = {
    "DeiT-S and DeiT-B/16-224": (196, 1, 12, 60),
    "MAE-L/16-224": (196, 1, 24, 21),
    "MAE-H/14-224": (256, 1, 32, 15),
    "CLIP-L/14-336": (576, 1, 24, 50),
    "BLIP-B/16-384": (576, 1, 12, 167),
    "EVA-g/14-364": (676, 1, 39, 17),
}


@pytest.mark.parametrize("name", TOKENS_LEFT)
def test_tokens_left_of_the_paper(name):
    patches, others, num_layers, left = TOKENS_LEFT[name]
    keep = KeepRatio.from_float(0.9)
    for _ in range(num_layers):
        patches -= keep.num_removed(patches)
    assert patches + others == left
