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

"""What a layer's record notes: the keys, and what the class token looks at."""

import numpy as np
import pytest
import torch
from merging import reference

from optimum_pitome.modeling.call import AttentionCall
from optimum_pitome.modeling.tokens import Tokens


HEADS, NUM_TOKENS, HEAD_DIM = 2, 7, 4
LEFT = torch.tensor(
    [[False, False, True, True, True, True, True], [True] * 7, [False, True, True, True, False] + [True] * 2]
)


def by_hand(query, key, scaling, bias, row, first):
    """The class token's attention of one sample: softmax of its scores, mean over the heads."""
    rows = []
    for head in range(HEADS):
        scores = key[row, head].double().numpy() @ query[row, head, first].double().numpy() * scaling
        scores = scores + bias[row, head if bias.shape[1] > 1 else 0, first if bias.shape[2] > 1 else 0].numpy()
        weights = np.exp(scores - scores.max())
        rows.append(weights / weights.sum())
    return np.mean(rows, axis=0)


def biases():
    """Of every form: what is given to the record, and what it means as numbers, `(B, heads or 1, n or 1, n)`."""
    yield None, torch.zeros(3, 1, 1, NUM_TOKENS)
    for shape in ((3, 1, 1), (3, 1, NUM_TOKENS), (3, HEADS, NUM_TOKENS), (1, 1, NUM_TOKENS)):
        soft = torch.randn(*shape, NUM_TOKENS)
        yield soft, soft.expand(3, -1, -1, -1).double()
        allowed = torch.rand(*shape, NUM_TOKENS) < 0.7
        allowed[..., 2] = True
        meaning = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
        yield allowed, meaning.expand(3, -1, -1, -1)


def over_heads(attention):
    """What kernels give by head, as what PyTorch gives."""
    return attention if attention.dim() == 2 else attention.mean(dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaling", [None, 0.25])
@pytest.mark.parametrize("where", ["in front", "behind padding"])
def test_what_the_class_token_looks_at(where, scaling, dtype):
    query, key = torch.randn(2, 3, HEADS, NUM_TOKENS, HEAD_DIM).to(dtype)
    tokens = Tokens(num_prefix_tokens=1) if where == "in front" else Tokens(valid=LEFT)
    first = [0, 0, 0] if where == "in front" else LEFT.long().argmax(dim=1).tolist()
    for bias, meaning in biases():
        call = AttentionCall(tokens, proportional=True, importance=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            call.record(query, key, bias, scaling)
        assert call.keys is key and call.attention.dtype == torch.float32
        for row in range(3):
            expected = by_hand(query, key, scaling or HEAD_DIM**-0.5, meaning, row, first[row])
            np.testing.assert_allclose(over_heads(call.attention)[row].numpy(), expected, atol=1e-6)


def test_the_class_token_is_in_front_where_nothing_is_padded():
    query, key = torch.randn(2, 3, HEADS, NUM_TOKENS, HEAD_DIM)
    call = AttentionCall(Tokens(), proportional=True, importance=True)
    call.record(query, key, None)
    for row in range(3):
        pairs = zip(query[row].numpy(), key[row].numpy())
        every = [
            reference.attention_weights(q, k, np.ones(NUM_TOKENS), np.ones(NUM_TOKENS, dtype=bool)) for q, k in pairs
        ]
        np.testing.assert_allclose(over_heads(call.attention)[row].numpy(), np.mean(every, axis=0)[0], atol=1e-6)


def test_one_mask_of_real_tokens_for_the_whole_batch():
    query, key = torch.randn(2, 3, HEADS, NUM_TOKENS, HEAD_DIM)
    found = []
    for valid in (LEFT[:1], LEFT[:1].expand(3, -1)):
        call = AttentionCall(Tokens(valid=valid), proportional=True, importance=True)
        call.record(query, key, None)
        found.append(call.attention)
    assert torch.equal(*found)


def test_nothing_is_computed_that_is_not_wanted():
    query, key = torch.randn(2, 3, HEADS, NUM_TOKENS, HEAD_DIM, requires_grad=True)
    call = AttentionCall(Tokens(), proportional=True)
    call.record(query, key, None)
    assert call.keys is key and call.attention is None
    call = AttentionCall(Tokens(), proportional=True, importance=True)
    call.record(query, key, None)
    assert not call.attention.requires_grad


@pytest.mark.parametrize("proportional", [True, False])
def test_the_callers_mask_counts_until_something_merges(proportional):
    mask, sizes = torch.zeros(1, 1, 1, 3), torch.tensor([[1.0, 2.0, 4.0]])
    assert AttentionCall(Tokens(valid=mask[0, 0] == 0), proportional).attention_mask(mask, torch.float32) is mask
    ours = AttentionCall(Tokens(sizes), proportional).attention_mask(mask, torch.float16)
    if proportional:
        assert torch.equal(ours, sizes.log().half()[:, None, None])
    else:
        assert ours is None
