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

"""Kernels of what is compared: masks, and unit vectors with their weights.

`B` samples, `N` tokens with the prefix; all memory that these kernels write is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def count_removed(count, special, numerator, denominator, min_tokens, multiple_of):
    """`KeepRatio.num_removed`, in 64 bits: tokens times a numerator of up to 10**9."""
    removed = (count.to(tl.int64) * numerator) // denominator
    removed = tl.minimum(removed, tl.maximum(count - min_tokens, 0)).to(tl.int32)
    return tl.maximum(removed - (multiple_of - 1 - (count - removed + special + multiple_of - 1) % multiple_of), 0)


@triton.jit
def read_masks(
    sample,
    tokens,
    num_tokens,
    prefix,
    numerator,
    denominator,
    min_tokens,
    multiple_of,
    valid,
    valid_stride,
    special,
    special_stride,
    protected,
    protected_stride,
    VALID: tl.constexpr,
    SPECIAL: tl.constexpr,
    PROTECTED: tl.constexpr,
):
    """Of all `tokens` of a sample: which are real, which may merge, and its k. As `Candidates.read`."""
    inside = tokens < num_tokens
    real = inside
    if VALID:
        real = real & (tl.load(valid + sample * valid_stride + tokens, mask=inside, other=0) != 0)
    may = real & (tokens >= prefix)
    if SPECIAL:
        may = may & (tl.load(special + sample * special_stride + tokens, mask=inside, other=1) == 0)
    count, others = tl.sum(may.to(tl.int32)), tl.sum((real & (may == 0)).to(tl.int32))
    pairs = count_removed(count, others, numerator, denominator, min_tokens, multiple_of)
    if PROTECTED:
        free = may & (tl.load(protected + sample * protected_stride + tokens, mask=inside, other=1) == 0)
        enough = tl.sum(free.to(tl.int32)) > pairs
        may = (free & enough) | (may & (enough == 0))
    return real, may, pairs


@triton.jit(
    do_not_specialize=[
        "heads",
        "attention_heads",
        "num_tokens",
        "num_pairs",
        "prefix",
        "numerator",
        "denominator",
        "min_tokens",
        "multiple_of",
    ]
)
def factors_kernel(
    features,
    sample_stride,
    head_stride,
    token_stride,
    heads,
    dim,
    attention,
    attention_heads,
    attention_sample_stride,
    attention_head_stride,
    exponent,
    num_tokens,
    prefix,
    numerator,
    denominator,
    min_tokens,
    multiple_of,
    valid,
    valid_stride,
    special,
    special_stride,
    protected,
    protected_stride,
    num_pairs,
    factors,
    weights,
    mergeable,
    counts,
    VALID: tl.constexpr,
    SPECIAL: tl.constexpr,
    PROTECTED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ALTERNATE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The mean of `features` `(B, heads, N, dim)` over the heads, scaled to its weight: `factors` `(B, N, dim)`;
    the weights `(B, N)`, from `attention` `(B, heads, N)`; which tokens may merge, `(B, N)`: 1, and where they take
    turns 1 for those that propose and 2 for those that accept; and of each sample its k, how many targets it has room
    for, and how many tokens stay: `counts` `(B, 3)`."""
    block, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    tokens = tl.arange(0, BLOCK_N)
    rows, columns = block * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    row_inside = rows < num_tokens
    inside = row_inside[:, None] & (columns < dim)[None, :]
    place = features + sample * sample_stride + rows[:, None] * token_stride + columns[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for head in range(heads):
        total += tl.load(place + head * head_stride, mask=inside, other=0.0).to(tl.float32)
    # As PyTorch on a GPU: a mean is a sum in float32 times a factor, rounded to the dtype.
    total = (total * tl.div_rn(1.0, heads.to(tl.float32))).to(features.dtype.element_ty).to(tl.float32)
    length = tl.maximum(tl.sqrt_rn(tl.sum(total * total, axis=1)), 1e-12)
    real, may, pairs = read_masks(
        sample,
        tokens,
        num_tokens,
        prefix,
        numerator,
        denominator,
        min_tokens,
        multiple_of,
        valid,
        valid_stride,
        special,
        special_stride,
        protected,
        protected_stride,
        VALID,
        SPECIAL,
        PROTECTED,
    )
    if WEIGHTED:
        attention += sample * attention_sample_stride
        paid, own = tl.zeros((BLOCK_N,), dtype=tl.float32), tl.zeros((BLOCK_M,), dtype=tl.float32)
        for head in range(attention_heads):
            paid += tl.load(attention + head * attention_head_stride + tokens, mask=may, other=0.0)
            own += tl.load(attention + head * attention_head_stride + rows, mask=row_inside, other=0.0)
        # The factor of a mean over heads cancels.
        mean = tl.div_rn(tl.sum(paid), tl.maximum(tl.sum(may.to(tl.int32)), 1).to(tl.float32))
        relative = tl.maximum(tl.div_rn(own, tl.maximum(mean, 1.1754943508222875e-38)), 0.2)
        weight = tl.exp2(tl.log2(relative) * exponent)
        tl.store(weights + sample * num_tokens + rows, weight, mask=row_inside)
        total = total * tl.div_rn(weight, length)[:, None]
    else:
        total = tl.div_rn(total, tl.broadcast_to(length[:, None], (BLOCK_M, BLOCK_D)))
    tl.store(factors + (sample * num_tokens + rows[:, None]) * dim + columns[None, :], total, mask=inside)
    if block == 0:
        turn, room = may.to(tl.int32), num_pairs
        if ALTERNATE:
            turn = tl.where(may, 1 + (prefix + tl.cumsum(turn, axis=0) - 1) % 2, 0)
            room = tl.sum((turn == 2).to(tl.int32))
        tl.store(mergeable + sample * num_tokens + tokens, turn.to(tl.int8), mask=tokens < num_tokens)
        tl.store(counts + sample * 3, pairs)
        if PROTECTED:
            room = tl.sum(may.to(tl.int32)) - pairs
        tl.store(counts + sample * 3 + 1, room)
        tl.store(counts + sample * 3 + 2, tl.sum(real.to(tl.int32)) - pairs)
