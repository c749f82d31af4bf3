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

"""Kernels that rank tokens, match them and lay out the result, all of them by counting: nothing is sorted, and every
block of tokens works alone."""

from __future__ import annotations

import triton
import triton.language as tl

from .similarity import NEVER, similarities


@triton.jit
def in_steps(energy):
    """`energy` rounded to steps of 2**-22, half to even. What is no number ranks first, as in PyTorch's sorts."""
    steps = energy * 4194304.0
    # From 2**23 on, float32 has whole numbers only.
    whole = tl.abs(steps)
    whole = tl.where(whole < 8388608.0, (whole + 8388608.0) - 8388608.0, whole)
    whole = tl.where(steps < 0.0, -whole, whole)
    return tl.where(energy != energy, float("inf"), whole)


@triton.jit(do_not_specialize=["num_tokens", "num_pairs", "num_pool", "prefix"])
def rank_kernel(
    energies,
    mergeable,
    counts,
    valid,
    valid_stride,
    source,
    pool,
    stays,
    num_tokens,
    num_pairs,
    num_pool,
    prefix,
    VALID: tl.constexpr,
    ALTERNATE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Ranks tokens by energy, equal ones in their order, those that may not merge last: even ranks are the `source`
    `(B, k)`, odd ones the `pool` `(B, k)`; where there is no room for k targets, all that are left are sources. Where
    tokens take turns, the first ranks of those that propose are the source, and all that accept the pool. And which
    tokens stay, `(B, N)`."""
    block, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    energies += sample * num_tokens
    mergeable += sample * num_tokens
    own = block * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = own < num_tokens
    turn = tl.load(mergeable + own, mask=inside, other=0)
    may = turn == 1
    steps = tl.where(may, in_steps(tl.load(energies + own, mask=inside, other=0.0)), float("-inf"))
    ahead = tl.zeros((BLOCK_N, BLOCK_R), dtype=tl.int32)
    accept = tl.zeros((BLOCK_N, BLOCK_R), dtype=tl.int32)
    for first in range(0, num_tokens, BLOCK_R):
        others = first + tl.arange(0, BLOCK_R)
        others_inside = (others >= prefix) & (others < num_tokens)
        others_turn = tl.load(mergeable + others, mask=others_inside, other=0)
        others_may = others_turn == 1
        others_steps = in_steps(tl.load(energies + others, mask=others_inside, other=0.0))
        others_steps = tl.where(others_may, others_steps, float("-inf"))[None, :]
        before = (others_steps == steps[:, None]) & (others[None, :] < own[:, None])
        ahead += (others_inside[None, :] & ((others_steps > steps[:, None]) | before)).to(tl.int32)
        if ALTERNATE:
            accept += ((others_turn == 2)[None, :] & (others[None, :] < own[:, None])).to(tl.int32)
    rank = tl.sum(ahead, axis=1)
    pairs, room = tl.load(counts + sample * 3), tl.load(counts + sample * 3 + 1)
    ranked = inside & (own >= prefix)
    if ALTERNATE:
        place, offered, seat = rank, turn == 2, tl.sum(accept, axis=1)
    else:
        seat, even = rank // 2, rank % 2 == 0
        place = tl.where(rank >= 2 * room, rank - room, tl.where(even, seat, num_pairs))
        offered = even == 0
    tl.store(source + sample * num_pairs + place, own.to(tl.int64), mask=ranked & (place < num_pairs))
    tl.store(pool + sample * num_pool + seat, own.to(tl.int64), mask=ranked & offered & (seat < num_pool))
    real = inside
    if VALID:
        real = real & (tl.load(valid + sample * valid_stride + own, mask=inside, other=0) != 0)
    goes = ranked & (place < pairs)
    tl.store(stays + sample * num_tokens + own, (real & (goes == 0)).to(tl.int8), mask=inside)


@triton.jit
def count_before(stays, own, num_tokens, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr):
    """How many tokens before each of `own` stay: the slot of one that stays."""
    before = tl.zeros((BLOCK_N, BLOCK_R), dtype=tl.int32)
    for first in range(0, num_tokens, BLOCK_R):
        others = first + tl.arange(0, BLOCK_R)
        kept = tl.load(stays + others, mask=others < num_tokens, other=0) != 0
        before += (kept[None, :] & (others[None, :] < own[:, None])).to(tl.int32)
    return tl.sum(before, axis=1)


@triton.jit(do_not_specialize=["num_tokens", "num_pairs", "num_pool", "num_kept"])
def match_kernel(
    factors,
    weights,
    counts,
    valid,
    valid_stride,
    source,
    pool,
    stays,
    target,
    source_mask,
    rows,
    kept,
    kept_valid,
    num_tokens,
    num_pairs,
    num_pool,
    num_kept,
    dim,
    VALID: tl.constexpr,
    WEIGHTED: tl.constexpr,
    ALTERNATE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Each source's most similar target of the pool, the first of equal ones; and where every token goes.

    The first blocks of programs take a block of sources each, the others a block of tokens.
    """
    block, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    stays += sample * num_tokens
    rows += sample * num_tokens
    pairs, room = tl.load(counts + sample * 3), tl.load(counts + sample * 3 + 1)
    num_source_blocks = (num_pairs + BLOCK_N - 1) // BLOCK_N
    lanes = tl.arange(0, BLOCK_N)
    if block < num_source_blocks:
        pair = block * BLOCK_N + lanes
        pair_inside = pair < num_pairs
        moved = tl.load(source + sample * num_pairs + pair, mask=pair_inside, other=0).to(tl.int32)
        num_targets = room if ALTERNATE else tl.minimum(pairs, room)
        best = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
        found = tl.zeros((BLOCK_N,), dtype=tl.int32)
        for first in range(0, num_pool, BLOCK_N):
            place = first + lanes
            inside = place < num_pool
            # Where tokens take turns, nothing was written after the last that accepts.
            offered = tl.load(pool + sample * num_pool + place, mask=place < num_targets, other=0).to(tl.int32)
            similarity = similarities(
                factors + sample * num_tokens * dim,
                weights + sample * num_tokens,
                moved,
                offered,
                pair_inside,
                inside,
                dim,
                WEIGHTED,
                BLOCK_N,
                BLOCK_N,
                BLOCK_K,
            )
            similarity = tl.where((place < num_targets)[None, :], similarity, NEVER)
            similarity = tl.where(inside[None, :], similarity, float("-inf"))
            highest = tl.max(similarity, axis=1)
            # The lowest place of the highest: a tie is decided here, not by the order of a reduction.
            where = tl.min(tl.where(similarity == highest[:, None], place[None, :], num_pool), axis=1)
            better = (highest > best) & (where < num_pool)
            best, found = tl.where(better, highest, best), tl.where(better, where, found)
        joined = tl.load(pool + sample * num_pool + found, mask=pair_inside & (found < num_targets), other=0)
        slot = count_before(stays, joined.to(tl.int32), num_tokens, BLOCK_N, BLOCK_R)
        real = pair_inside & (pair < pairs)
        tl.store(target + sample * num_pairs + pair, joined, mask=pair_inside)
        tl.store(source_mask + sample * num_pairs + pair, real.to(tl.int8), mask=pair_inside)
        tl.store(rows + moved, sample * num_kept + slot, mask=real)
    else:
        own = (block - num_source_blocks) * BLOCK_N + lanes
        inside = own < num_tokens
        here = tl.load(stays + own, mask=inside, other=0) != 0
        slot = count_before(stays, own, num_tokens, BLOCK_N, BLOCK_R)
        total = tl.load(counts + sample * 3 + 2)
        # After the tokens that stay come the others, in their order: fillers.
        place = tl.where(here, slot, total + own - slot)
        tl.store(kept + sample * num_kept + place, own.to(tl.int64), mask=inside & (place < num_kept))
        tl.store(kept_valid + sample * num_kept + own, (own < total).to(tl.int8), mask=own < num_kept)
        written = inside & here
        if VALID:
            # Padding reads the first token, as `plan_from_pairs` says why.
            pad = inside & (tl.load(valid + sample * valid_stride + own, mask=inside, other=1) == 0)
            slot, written = tl.where(pad, 0, slot), written | pad
        tl.store(rows + own, sample * num_kept + slot, mask=written)
