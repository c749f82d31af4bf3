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

"""From products of [`factors`] to a plan: energies, ranks, and where every token goes."""

from __future__ import annotations

import numpy as np
from numba import njit

from .settings import ONE, REORDERED, SETTINGS, is_real


# Of bfloat16.py and settings.py, for Numba's cache: b94eeec88f49


#: Below any similarity, as `merging.energy.NEVER`.
_NEVER = np.float32(-1e6)

#: Energies are ranked in steps of 2**-22, and equal ones by their place, of which there are fewer than 2**20.
_STEPS, _PLACES, _HIGHEST = np.float32(2**22), 2**20, 2.0**40


@njit(**REORDERED)
def _nearest(product, weight, turn, energies, apart):
    """The similarity of each token to the nearest other one that may merge: `energies` `(M,)`. That of two tokens is
    read once, with the later one first: a product need not be symmetric in the last bit, and the energies of two that
    are nearest to each other are to be equal."""
    number = product.shape[0]
    for column in range(number):
        apart[column] = ONE if turn[column] != 0 else _NEVER
        energies[column] = _NEVER
    for row in range(number):
        if turn[row] == 0:
            continue
        highest, line, heavy = _NEVER, product[row], weight[row]
        for column in range(row):
            similarity = line[column] + (apart[column] - heavy * weight[column])
            highest = max(highest, similarity)
            energies[column] = max(energies[column], similarity)
        energies[row] = highest


@njit(**SETTINGS)
def _ranked(energies, tokens, order):
    """`tokens` by their `energies`, the highest first and equal ones as they come: the front of `order`. What is no
    number comes first, as in PyTorch's sorts."""
    number = tokens.shape[0]
    keys = np.empty(number, dtype=np.int64)
    for place in range(number):
        steps = np.rint(energies[place] * _STEPS)
        steps = _HIGHEST if steps != steps else min(max(np.float64(steps), -_HIGHEST), _HIGHEST)
        keys[place] = -np.int64(steps) * _PLACES + place
    keys.sort()
    for place in range(number):
        order[place] = tokens[keys[place] & (_PLACES - 1)]


@njit(**SETTINGS)
def _lay_out(sample, pairs, real, valid, gone, plan):
    """Where every token goes, and which ones are left: as `pairs.plan_from_pairs` says it."""
    rows, kept, source, target, source_mask, kept_valid = plan
    num_tokens, num_kept, start = rows.shape[1], kept.shape[1], sample * kept.shape[1]
    slot, filler = 0, real - pairs
    for token in range(num_tokens):
        if is_real(valid, sample, token) and not gone[token]:
            # Not beyond the sample, whatever the masks were said to hold: others read and write there.
            rows[sample, token] = start + min(slot, num_kept - 1)
            place = slot
            slot += 1
        else:
            rows[sample, token] = start  # padding reads the first token
            place = filler
            filler += 1
        if place < num_kept:
            kept[sample, place] = token
    for place in range(num_kept):
        kept_valid[sample, place] = place < real - pairs
    for pair in range(source.shape[1]):
        source_mask[sample, pair] = pair < pairs
        if pair < pairs:
            rows[sample, source[sample, pair]] = rows[sample, target[sample, pair]]


@njit(**SETTINGS)
def protect(first, last, product, weights, turns, counts, valid, start, plan):
    """PiToMe's matching from the `product` `(B, M, M)` of all [`factors`], the first of which is that of the token
    `start`. `plan` is what `kernels.gpu.launch.match` returns. Written."""
    source, target = plan[2], plan[3]
    num_tokens, number, num_pairs = turns.shape[1], product.shape[1], source.shape[1]
    energies, apart = np.empty((2, number), dtype=np.float32)
    tokens, order = np.empty((2, number), dtype=np.int64)
    gone, pool = np.empty(num_tokens, dtype=np.bool_), np.empty(num_pairs, dtype=np.int64)
    for sample in range(first, last):
        turn, weight, pairs, room = turns[sample], weights[sample], counts[sample, 0], counts[sample, 1]
        among = slice(start, start + number)
        _nearest(product[sample], weight[among], turn[among], energies, apart)
        count = 0
        for place in range(number):
            if turn[start + place] != 0:
                tokens[count], energies[count] = start + place, energies[place]
                count += 1
        _ranked(energies[:count], tokens[:count], order)
        for place in range(number):
            if turn[start + place] == 0:
                order[count] = start + place
                count += 1
        gone[:] = False
        for rank in range(number):
            # Where there is no room for k targets, all that are left are sources.
            place = rank - room if rank >= 2 * room else rank // 2 if rank % 2 == 0 else num_pairs
            if place < num_pairs:
                source[sample, place] = order[rank]
                gone[order[rank]] = place < pairs
            if rank % 2 == 1 and rank // 2 < num_pairs:
                pool[rank // 2] = order[rank]
        for pair in range(num_pairs):
            moved, best, found = source[sample, pair], -np.inf, 0
            line, heavy = product[sample, moved - start], weight[moved]
            for place in range(min(pairs, room) if pair < pairs else 0):
                similarity = line[pool[place] - start] + (ONE - heavy * weight[pool[place]])
                if similarity > best:
                    best, found = similarity, place
            target[sample, pair] = pool[found]
        _lay_out(sample, pairs, counts[sample, 2], valid, gone, plan)


@njit(**REORDERED)
def _closest(line, heavy, weights):
    """The largest similarity in a `line` of products, and the first place where it is."""
    best = -np.float32(np.inf)
    for place in range(line.shape[0]):
        line[place] += ONE - heavy * weights[place]
        best = max(best, line[place])
    for place in range(line.shape[0]):
        if line[place] == best:
            return best, place
    return best, 0


@njit(**SETTINGS)
def alternate(first, last, product, weights, turns, counts, valid, start, plan):
    """ToMe's matching from the `product` `(B, P, P)` of the [`factors`] of those that propose and that accept."""
    source, target = plan[2], plan[3]
    num_tokens, size = turns.shape[1], product.shape[1]
    energies, heavy = np.empty((2, size), dtype=np.float32)
    proposing, accepting, found, order = np.empty((4, num_tokens), dtype=np.int64)
    gone = np.empty(num_tokens, dtype=np.bool_)
    for sample in range(first, last):
        turn, weight, pairs = turns[sample], weights[sample], counts[sample, 0]
        proposed = accepted = 0
        for token in range(num_tokens):
            if turn[token] == 1:
                proposing[proposed] = token
                proposed += 1
            elif turn[token] == 2:
                accepting[accepted], heavy[accepted] = token, weight[token]
                accepted += 1
        for seat in range(proposed):
            line = product[sample, seat, :accepted]
            energies[seat], place = _closest(line, weight[proposing[seat]], heavy[:accepted])
            found[proposing[seat]] = accepting[place]
        _ranked(energies[:proposed], proposing[:proposed], order)
        for token in range(num_tokens):
            if turn[token] != 1:
                order[proposed] = token
                proposed += 1
        gone[:] = False
        for pair in range(source.shape[1]):
            moved = order[pair]
            source[sample, pair], gone[moved] = moved, pair < pairs
            target[sample, pair] = found[moved] if pair < pairs else 0
        _lay_out(sample, pairs, counts[sample, 2], valid, gone, plan)
