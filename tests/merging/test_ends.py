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

"""Special tokens at the ends of every sample without a mask: the same merge as with one, in fewer operations."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_pitome import register_algorithm
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens
from optimum_pitome.methods import ALGORITHMS


def numbers(*shape, seed=0):
    """Quarters, which no order of adding rounds, and so ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator) / 4


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(ALGORITHMS)),
    st.integers(1, 3),
    st.integers(1, 24),
    st.integers(0, 2),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from([0.9, 0.7, 0.5]),
    st.sampled_from([{}, {"min_tokens": 4}, {"multiple_of": 4}]),
    st.integers(0, 99),
)
def test_a_merge_is_that_with_a_mask(algorithm, batch_size, num_inner, prefix, ends, ratio, floors, seed):
    num_tokens = prefix + num_inner + sum(ends)
    features, hidden_states = numbers(batch_size, num_tokens, 4, seed=seed), numbers(batch_size, num_tokens, 3)
    attention = torch.ones(batch_size, num_tokens)
    combine = ALGORITHMS[algorithm].combine_in(1, 2)
    spec = MergeSpec(KeepRatio.from_float(ratio, **floors), algorithm, importance=0.5, combine=combine)
    masks = TokenMasks(prefix, attention=attention, ends=ends)
    spelled_out = masks.spelled_out(features)
    assert spelled_out.never == masks.never and spelled_out.ends == (0, 0)
    assert ends == (0, 0) or spelled_out.special.sum() == batch_size * (sum(ends) + prefix)
    found, expected = match_tokens(features, spec, masks), match_tokens(features, spec, spelled_out)
    assert (found is None) == (expected is None or expected.num_kept == num_tokens)
    if found is None:
        return
    assert torch.equal(found.kept.expand(batch_size, -1), expected.kept)
    assert torch.equal(found.assignment.expand(batch_size, -1), expected.assignment)
    assert expected.valid is None or expected.valid.all()
    torch.testing.assert_close(found.merge(hidden_states), expected.merge(hidden_states))
    assert torch.equal(found.merge_sizes(attention), expected.merge_sizes(attention))


def test_what_a_user_registers_gets_a_mask(monkeypatch):
    given = []

    @register_algorithm("a user's")
    def match(features, spec, masks):
        given.append(masks)

    entry = ALGORITHMS.pop("a user's")
    monkeypatch.setitem(ALGORITHMS, "a user's", entry)  # which is gone after the test

    match_tokens(numbers(2, 6, 4), MergeSpec(KeepRatio.from_float(0.5), "a user's"), TokenMasks(1, ends=(1, 2)))
    (masks,) = given
    assert masks.special.tolist() == [[True, True, False, False, True, True]] * 2
    assert masks.max_special == 3 and masks.ends == (0, 0)
