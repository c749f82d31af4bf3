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

"""The tokens between two layers: what is carried along, and brought from one layer to another."""

import itertools
import math

import pytest
import torch

from optimum_pitome.merging import KeepRatio, MergeSpec, match_tokens
from optimum_pitome.modeling.masks import read_mask
from optimum_pitome.modeling.state import MergeState
from optimum_pitome.modeling.tokens import Tokens


def layers(algorithm, num_layers=3, start=Tokens(num_prefix_tokens=1)):
    """The tokens before each layer and after the last, and the hidden states, merged on the way."""
    hidden_states = torch.randn(2, 30, 4)
    spec = MergeSpec(KeepRatio.from_float(0.7), algorithm=algorithm)
    tokens, states = [start], [hidden_states]
    for _ in range(num_layers):
        plan = match_tokens(states[-1], spec, tokens[-1].masks())
        states.append(plan.merge(states[-1], tokens[-1].sizes))
        tokens.append(tokens[-1].merged(plan))
    return tokens, states


@pytest.mark.parametrize("algorithm", ["pitome", "tome"])
def test_earlier_hidden_states_brought_to_a_later_layer(algorithm):
    tokens, states = layers(algorithm)
    for start in range(4):
        for end in range(start, 4):
            # The mean of means, weighted by sizes, is what merging itself computed.
            torch.testing.assert_close(tokens[start].merged_into(tokens[end], states[start]), states[end])


def test_pruned_tokens_do_not_add_up():
    tokens, states = layers("random")
    for start in range(3):
        ones = tokens[start].merged_into(tokens[3], torch.ones_like(states[start]))
        torch.testing.assert_close(ones, torch.ones_like(states[3]))


@pytest.mark.parametrize("algorithm", ["pitome", "random"])
def test_unmerge_and_compress_are_inverse(algorithm):
    tokens, states = layers(algorithm)
    for token, state in zip(tokens, states):
        full = token.unmerge(state)
        assert full.shape == states[0].shape
        assert torch.equal(token.compress(full), state)


def test_a_bias_stays_finite_in_half_precision():
    valid = torch.tensor([[True, True, False]])
    sizes = torch.tensor([[5.0, 1.0, 9.0]])
    pattern = torch.tensor([[True, False, True]] * 3)[None, None]
    for pairwise_mask in (None, pattern, torch.zeros(1, 1, 3, 3).masked_fill(~pattern, float("-inf"))):
        bias = Tokens(sizes, valid, pairwise_mask=pairwise_mask).attention_bias(torch.float16, True)
        assert bias.dtype == torch.float16 and bias.isfinite().all()
        assert (bias[..., 2] == torch.finfo(torch.float16).min).all()
        assert bias[0, 0, 0, 0] == torch.tensor(5.0).log().half()
        assert (bias[0, 0, 0, 1] == 0) == (pairwise_mask is None)


def start_with(mask):
    """Tokens with everything that is carried along: padding on either side, special tokens, a pattern of the caller.

    `mask` names the shape of the pattern.
    """
    position = torch.arange(30).expand(2, -1)
    valid = (position >= 3) & (position < torch.tensor([[30], [24]]))
    special = (position == 3) | (position == torch.tensor([[17], [20]]))
    shape = {"pairs": (2, 2, 30, 30), "keys": (2, 2, 1, 30), "one for all": (1, 1, 30, 30)}[mask]
    return Tokens(valid=valid, special=special, pairwise_mask=torch.randn(shape), track_positions=True, max_special=2)


@pytest.mark.parametrize("mask", ["pairs", "keys", "one for all"])
@pytest.mark.parametrize("algorithm", ["pitome", "tome"])
def test_what_goes_along_is_that_of_the_survivors(algorithm, mask):
    """After each merge: every attribute, by what is known of the original token that each slot still holds."""
    start = start_with(mask)
    tokens, states = layers(algorithm, start=start)
    pattern = start.pairwise_mask.expand(2, -1, -1, -1)
    assert tokens[0].positions is None and tokens[0].sizes is None
    for now, state in zip(tokens[1:], states[1:]):
        assert now.track_positions and now.max_special == 2 and now.num_prefix_tokens == 0
        for row in range(2):
            positions, count = now.positions[row].tolist(), int(now.valid[row].sum())
            assert now.valid[row, :count].all() and len(positions) == now.valid.shape[1] == state.shape[1]
            assert positions[:count] == sorted(set(positions[:count])) and start.valid[row, positions[:count]].all()
            for slot in range(count):
                # Who survives is in its own group, and a group is as large as it has members.
                assert now.assignment[row, positions[slot]] == slot
                assert now.sizes[row, slot] == ((now.assignment[row] == slot) & start.valid[row]).sum()
                if start.special[row, positions[slot]]:
                    assert now.sizes[row, slot] == 1
            assert now.sizes.dtype == torch.float32
            assert torch.equal(now.special[row], start.special[row, positions])
            assert start.special[row, positions[:count]].sum() == 2
            columns = pattern[row][..., positions]
            assert torch.equal(now.pairwise_mask[row], columns[:, positions] if columns.shape[1] > 1 else columns)
    assert tokens[-1].positions.shape[1] < tokens[1].positions.shape[1]


def test_positions_are_kept_for_those_who_ask():
    tokens, _ = layers("pitome")
    assert all(token.positions is None for token in tokens)


@pytest.mark.parametrize("algorithm", ["pitome", "random"])
def test_a_member_is_in_the_group(algorithm):
    for tokens in layers(algorithm)[0][1:]:
        members = tokens.members()
        assert members.dtype == torch.int64 and members.shape == tokens.sizes.shape
        assert torch.equal(tokens.assignment.gather(1, members), torch.arange(members.shape[1]).expand(2, -1))


@pytest.mark.parametrize("algorithm", ["pitome", "random"])
def test_bringing_forward_is_exact_in_half_precision(algorithm):
    """The mean runs in float32: what comes back is the exact mean, rounded once."""
    tokens, states = layers(algorithm)
    half = states[1].bfloat16()
    brought = tokens[1].merged_into(tokens[3], half)
    assert brought.dtype == torch.bfloat16
    assert torch.equal(brought, tokens[1].merged_into(tokens[3], half.float()).bfloat16())


def test_tokens_follow_the_layers_to_other_devices():
    """With `device_map`, layers live on several. `meta` stands for the other one: it refuses to mix with the CPU."""
    meta = torch.device("meta")
    tokens, states = layers("pitome", start=start_with("pairs"))
    for token, state in zip(tokens, states):
        assert token.to(torch.device("cpu")) is token
        moved = token.to(meta)
        assert all(value.device == meta for value in vars(moved).values() if isinstance(value, torch.Tensor))
        assert all((getattr(moved, name) is None) == (value is None) for name, value in vars(token).items())
        state = state.to(meta)
        full = token.unmerge(state)
        assert (full.device, full.shape) == (meta, states[0].shape)
        short = token.compress(full)
        assert (short.device, short.shape) == (meta, state.shape)
        brought = token.merged_into(tokens[-1], state)
        assert (brought.device, brought.shape) == (meta, states[-1].shape)


# --- the bias of the attention --------------------------------------------------------------------------------------


def bias_by_hand(row, query, key, sizes, valid, pattern, proportional, lowest):
    """What is added to the score of one pair."""
    if valid is not None and not valid[row, key]:
        return lowest
    bias = math.log(sizes[row, key]) if proportional and sizes is not None else 0.0
    if pattern is not None:
        value = pattern.expand(2, 2, 3, 3)[row, 1, query, key]
        if pattern.dtype == torch.bool:
            return bias if value else lowest
        bias = max(bias + value.item(), lowest)
    return bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("proportional", [True, False])
def test_the_bias_by_hand(proportional, dtype):
    lowest = torch.finfo(dtype).min
    # A pad may have any size: one that nothing is left of, too.
    sizes = torch.tensor([[1.0, 3.0, 7.0], [2.0, 1.0, 0.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    soft = torch.randn(2, 2, 3, 3)
    soft[:, :, 0, 1], soft[:, :, 2, 0] = lowest, float("-inf")
    allowed = torch.rand(2, 1, 3, 3) < 0.6
    patterns = (None, soft, allowed, soft[:1, :1], soft[:, :, :1], allowed[..., :1, :])
    for pattern, some_valid, some_sizes in itertools.product(patterns, (None, valid), (None, sizes)):
        if some_valid is None and some_sizes is not None:
            some_sizes = sizes.clamp(min=1)
        tokens = Tokens(some_sizes, some_valid, pairwise_mask=pattern)
        bias = tokens.attention_bias(dtype, proportional)
        if pattern is None and some_valid is None and (some_sizes is None or not proportional):
            assert bias is None
            continue
        assert bias.dtype == dtype and bias.isfinite().all()
        bias = bias.expand(2, 2 if bias.shape[1] > 1 else 1, 3, 3)
        for row, query, key in itertools.product(range(2), range(3), range(3)):
            expected = bias_by_hand(row, query, key, some_sizes, some_valid, pattern, proportional, lowest)
            assert bias[row, -1, query, key].item() == pytest.approx(expected, rel=8e-3, abs=1e-2)


# --- masks of callers -----------------------------------------------------------------------------------------------

REAL = torch.tensor([[True, True, True, False], [False, True, True, True]])
SQUARE = (REAL[:, None, :, None] & REAL[:, None, None, :]) | torch.eye(4, dtype=torch.bool) & REAL[:, None, None, :]


def additive(mask, lowest):
    return torch.zeros(mask.shape).masked_fill(~mask, lowest)


@pytest.mark.parametrize(
    ("mask", "has_pattern"),
    [
        (REAL, False),
        (REAL.long(), False),
        (REAL.float(), False),
        (REAL[:, None, None, :], False),
        (REAL[:, None, None, :].long(), False),
        (REAL[:, None, :], False),
        (SQUARE, True),
        (SQUARE[:, 0], True),
        (SQUARE.expand(-1, 3, -1, -1), True),
        (additive(REAL[:, None, None, :], float("-inf")), True),
        (additive(REAL[:, None, None, :], -1e4), True),
        (additive(SQUARE, torch.finfo(torch.float32).min), True),
        (additive(SQUARE, torch.finfo(torch.float16).min).half(), True),
    ],
)
def test_every_form_of_a_mask(mask, has_pattern):
    before = mask.clone()
    valid, pattern = read_mask(mask)
    assert valid.dtype == torch.bool and torch.equal(valid, REAL)
    assert torch.equal(mask, before)
    if has_pattern:
        assert torch.equal(pattern, mask if mask.dim() == 4 else mask[:, None])
    else:
        assert pattern is None


def test_masks_that_hide_less_than_a_token():
    assert read_mask(None) == (None, None)
    # A key that one head, or one query, may look at is real; so is one whose score is only lowered.
    for heads, queries in ((2, 1), (1, 3), (2, 3)):
        mask = torch.zeros(1, heads, queries, 4, dtype=torch.bool)
        mask[0, -1, -1, :3] = True
        assert read_mask(mask)[0].tolist() == [[True, True, True, False]]
    soft = torch.tensor([0.0, -3.0, -9998.0, -10000.0])[None, None, None]
    assert read_mask(soft)[0].tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("mask", [torch.ones(4), torch.ones(1, 1, 1, 4, 4), [[1, 1]], 3])
def test_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="attention_mask is .*Merging accepts a tensor of shape"):
        read_mask(mask)


# --- what is read of a forward --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "num_run", "ran"),
    [
        ((), None, [True, True, True]),
        ((0,), 0, [False, False, False]),
        ((1,), 1, [True, False, False]),
        ((2, 0), 2, [True, True, False]),
        ((3, 1), 3, [True, True, True]),
        ((1,), None, [True, True, True]),
    ],
)
@pytest.mark.parametrize("unmerge", [True, False])
def test_what_is_read_of_a_forward(reads, num_run, ran, unmerge):
    """Layer `i` runs where hidden state `i + 1` or a later one is read; what did not run is `None`."""
    tokens, states = layers("pitome")
    state = MergeState((None,) * 3, lambda: tokens[0], reads=reads, num_run=num_run)
    assert state.slots[1:] == [None, None, None] and state.slots[0].assignment is None
    state.slots = tokens
    assert [state.runs(index) for index in range(3)] == ran
    returned = state.hidden_states(tuple(states), unmerge)
    assert [value is not None for value in returned] == [True, *ran]
    for index, value in enumerate(returned):
        if value is None:
            continue
        expected = states[index]
        if unmerge:
            expected = tokens[index].unmerge(states[index])
        elif index in reads:
            expected = states[max(reads)]  # merging itself brings each to the tokens of the last one
        torch.testing.assert_close(value, expected)
    missing = state.hidden_states((None, *states[1:]), unmerge)
    assert missing[0] is None and [value is None for value in missing[1:]] == [not run for run in ran]


def test_a_layer_merges_where_the_longest_sample_could():
    specs = tuple(MergeSpec(KeepRatio.from_float(ratio, 4)) for ratio in (0.8, 1.0))
    state = MergeState(specs, Tokens, num_prefix_tokens=2)
    # Five tokens after the prefix lose one, fewer none; four stay in any case; and ratio 1 is dense.
    assert [state.merges(0, num_tokens) for num_tokens in (0, 2, 6, 7, 70)] == [False, False, False, True, True]
    assert not any(state.merges(1, num_tokens) for num_tokens in (0, 7, 70))
    assert MergeState(specs, Tokens).merges(0, 5) and not MergeState(specs, Tokens).merges(0, 4)
