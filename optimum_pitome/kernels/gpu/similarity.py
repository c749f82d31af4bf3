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

"""Similarities of tokens, and energies without a matrix of all pairs, of `B` samples of `N` tokens with the prefix."""

from __future__ import annotations

import triton
import triton.language as tl


NEVER = tl.constexpr(-1e6)  #: that of `merging/energy.py`


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
