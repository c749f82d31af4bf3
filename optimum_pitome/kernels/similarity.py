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

"""Kernels of what is compared: unit vectors with their weights, and energies without a matrix of all pairs.

`B` samples, `N` tokens with the prefix; all memory that these kernels write is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl


NEVER = tl.constexpr(-1e6)  #: that of `merging/energy.py`


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


@triton.jit
def similarities(
    factors,
    weights,
    left,
    right,
    left_inside,
    right_inside,
    dim,
    WEIGHTED: tl.constexpr,
    BLOCK_LEFT: tl.constexpr,
    BLOCK_RIGHT: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Between the tokens `left` and `right` of one sample: `(BLOCK_LEFT, BLOCK_RIGHT)`, float32 throughout."""
    product = tl.zeros((BLOCK_LEFT, BLOCK_RIGHT), dtype=tl.float32)
    for start in range(0, dim, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        a = tl.load(
            factors + left[:, None] * dim + columns[None, :],
            mask=left_inside[:, None] & (columns < dim)[None, :],
            other=0.0,
        )
        b = tl.load(
            factors + right[None, :] * dim + columns[:, None],
            mask=right_inside[None, :] & (columns < dim)[:, None],
            other=0.0,
        )
        product = tl.dot(a, b, product, input_precision="ieee")
    if WEIGHTED:
        left_weight = tl.load(weights + left, mask=left_inside, other=1.0)
        right_weight = tl.load(weights + right, mask=right_inside, other=1.0)
        product = product - left_weight[:, None] * right_weight[None, :] + 1.0
    return product


@triton.jit
def scores(similarity, both, different, margin, alpha, ENERGY: tl.constexpr):
    """What each pair adds to the energy of one of its tokens, as the functions of `merging/energy.py`."""
    if ENERGY == "nearest" or ENERGY == "tome":
        return tl.where(both & different, similarity, NEVER)
    if ENERGY == "gaussian":
        sigma = 1.0 - margin
        distance = (1.0 - similarity) / sigma
        value = tl.exp(-0.5 * distance * distance) / (sigma * 2.5066282746310002)
    else:
        value = alpha * (tl.exp(similarity - margin) - 1.0)
        if ENERGY == "elu":
            value = tl.where(similarity > margin, similarity - margin, value)
        else:
            value = tl.where(similarity >= margin, similarity, value)
    return tl.where(both, value, 0.0)


@triton.jit(do_not_specialize=["num_tokens", "divisor"])
def energies_kernel(
    factors,
    weights,
    mergeable,
    energies,
    num_tokens,
    dim,
    margin,
    alpha,
    divisor,
    ENERGY: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The energy of each token, `(B, N)`, divided by `divisor`.

    The similarity of two tokens comes from one order of the two, the lower block on the left, in whichever program
    needs it. So it is the same number for both, bit for bit, however the product is computed, and mutual nearest
    neighbours get equal energies. With "tome", it is the similarity to the nearest token that accepts.
    """
    block, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    factors += sample * num_tokens * dim
    weights += sample * num_tokens
    mergeable += sample * num_tokens
    lanes = tl.arange(0, BLOCK_N)
    own = block * BLOCK_N + lanes
    own_inside = own < num_tokens
    own_may = tl.load(mergeable + own, mask=own_inside, other=0) == 1
    nearest: tl.constexpr = ENERGY == "nearest" or ENERGY == "tome"
    turn: tl.constexpr = 2 if ENERGY == "tome" else 1
    start = NEVER if nearest else 0.0
    in_rows = tl.full((BLOCK_N, BLOCK_N), start, dtype=tl.float32)
    in_columns = tl.full((BLOCK_N, BLOCK_N), start, dtype=tl.float32)
    count = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for first in range(block * BLOCK_N, num_tokens, BLOCK_N):
        others = first + lanes
        inside = others < num_tokens
        may = tl.load(mergeable + others, mask=inside, other=0) == turn
        similarity = similarities(
            factors, weights, own, others, own_inside, inside, dim, WEIGHTED, BLOCK_N, BLOCK_N, BLOCK_K
        )
        both, different = own_may[:, None] & may[None, :], own[:, None] != others[None, :]
        value = scores(similarity, both, different, margin, alpha, ENERGY)
        in_rows = tl.maximum(in_rows, value) if nearest else in_rows + value
        count += may.to(tl.int32)
    # Of a maximum the block itself is read both ways: nothing says that its product is symmetric.
    for first in range(0, block * BLOCK_N + (BLOCK_N if nearest else 0), BLOCK_N):
        others = first + lanes
        inside = others < num_tokens
        may = tl.load(mergeable + others, mask=inside, other=0) == turn
        similarity = similarities(
            factors, weights, others, own, inside, own_inside, dim, WEIGHTED, BLOCK_N, BLOCK_N, BLOCK_K
        )
        both, different = may[:, None] & own_may[None, :], others[:, None] != own[None, :]
        value = scores(similarity, both, different, margin, alpha, ENERGY)
        in_columns = tl.maximum(in_columns, value) if nearest else in_columns + value
        count += may.to(tl.int32)
    if nearest:
        energy = tl.maximum(tl.max(in_rows, axis=1), tl.max(in_columns, axis=0))
    else:
        energy = tl.sum(in_rows, axis=1) + tl.sum(in_columns, axis=0)
        energy = tl.div_rn(energy, tl.maximum(tl.sum(count), 1).to(tl.float32))
    tl.store(energies + sample * num_tokens + own, tl.div_rn(energy, tl.zeros_like(energy) + divisor), mask=own_inside)
