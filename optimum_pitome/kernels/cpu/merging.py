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

"""What becomes of the tokens of a plan, and what the class token pays to each."""

from __future__ import annotations

import numpy as np
from numba import njit

from .bfloat16 import narrowed, sums_of, widened
from .settings import ONE, REORDERED, SETTINGS, ZERO, is_marked, is_real


# Of bfloat16.py and settings.py, for Numba's cache: b94eeec88f49

#: As in `combine.keep_norm`.
_TINY, _LONGEST = np.finfo(np.float32).tiny, np.float32(1e3)


@njit(**REORDERED)
def _length(row):
    """Its norm."""
    total = ZERO
    for column in range(row.shape[0]):
        total += row[column] * row[column]
    return np.sqrt(total)


@njit(**SETTINGS)
def merge(first, last, hidden_states, weights, sizes, plan, lowest, kept_norm, merged, merged_sizes, logs, moved):
    """The mean of each group of tokens, in the order and with the roundings of `MergePlan.merge`, and longer as
    `combine.keep_norm` makes it where `kept_norm` is not 0; its size, and its log size, which is `lowest` where no
    real token is; and what moves along.

    Args:
        hidden_states (`(B, N, dim)`); weights, sizes (`(B, N)`, or no samples: all 1).
        plan (`tuple`): `rows` and `counted` `(B, N)`, `kept` and `kept_valid` `(B, n)`.
        merged (`(B, n, dim)`), merged_sizes, logs (`(B, n)`): written.
        moved (`tuple`): three pairs of what was and what is written: rows of the original tokens, and marks of special
            and protected tokens; no samples where there are none.
    """
    rows, counted, kept, valid = plan
    original, special, protected = moved
    num_tokens, dim = hidden_states.shape[1:]
    num_kept = merged.shape[1]
    totals, room = np.empty(num_kept, dtype=np.float32), np.empty(dim, dtype=np.float32)
    lengths, members = np.empty(num_kept, dtype=np.float32), np.empty(num_kept, dtype=np.int64)
    sums_room = np.empty((num_kept if merged.itemsize == 2 else 0, dim), dtype=np.float32)
    flat = rows.reshape(-1)
    for sample in range(first, last):
        start, sums, size = sample * num_kept, sums_of(merged[sample], sums_room), merged_sizes[sample]
        sums[:], size[:], totals[:], lengths[:], members[:] = ZERO, ZERO, ZERO, ZERO, 0
        for token in range(num_tokens):
            if is_real(counted, sample, token):
                slot = rows[sample, token] - start
                size[slot] += sizes[sample, token] if sizes.shape[0] > 0 else ONE
                totals[slot] += weights[sample, token] if weights.shape[0] > 0 else ONE
        for token in range(num_tokens):
            if is_real(counted, sample, token):
                slot = rows[sample, token] - start
                share = (weights[sample, token] if weights.shape[0] > 0 else ONE) / totals[slot]
                given, total = widened(hidden_states[sample, token], room), sums[slot]
                for column in range(dim):
                    total[column] += given[column] * share
                if kept_norm > ZERO:
                    lengths[slot] += _length(given) * share
                    members[slot] += 1
        for slot in range(num_kept):
            if members[slot] > 1:
                total = sums[slot]
                longer = min(max(lengths[slot] / max(_length(total), _TINY), ONE), _LONGEST) ** kept_norm
                for column in range(dim):
                    total[column] *= longer
            narrowed(sums[slot], merged[sample, slot])
            logs[sample, slot] = np.log(size[slot]) if is_real(valid, sample, slot) else lowest
            if special[0].shape[0] > 0:
                special[1][sample, slot] = is_marked(special[0], sample, kept[sample, slot])
            if protected[0].shape[0] > 0:
                protected[1][sample, slot] = is_marked(protected[0], sample, kept[sample, slot])
        if original[0].shape[0] > 0:
            for token in range(original[0].shape[1]):
                original[1][sample, token] = flat[original[0][sample, token]]


@njit(**REORDERED)
def class_attention(first, last, query, key, by_head, bias, valid, scaling, attention):
    """What the first token that is valid pays to each, the mean over the heads: `attention` `(B, 1, N)`.

    `query` is `(B, N or 1, heads, dim)`, `key` `(B, N, key heads, dim)`, or with the heads before the tokens, and
    `bias` `(B or 1, heads or 1, N)`, or has no samples.
    """
    heads, dim = query.shape[2:]
    num_tokens, key_heads = key.shape[2 if by_head else 1], key.shape[1 if by_head else 2]
    shared = heads // key_heads
    scores, room = np.empty((heads, num_tokens), dtype=np.float32), np.empty(dim, dtype=np.float32)
    for sample in range(first, last):
        asking = 0
        while asking < num_tokens and not is_real(valid, sample, asking):
            asking += 1
        asking %= num_tokens  # where none is valid, the first
        for token in range(num_tokens):
            for head in range(heads):
                asked, score = query[sample, asking, head], ZERO
                of_key = head // shared
                given = widened(key[sample, of_key, token] if by_head else key[sample, token, of_key], room)
                for column in range(dim):
                    score += asked[column] * given[column]
                scores[head, token] = score * scaling
        paid = attention[sample, 0]
        paid[:] = ZERO
        for head in range(heads):
            line, highest, total = scores[head], np.float32(-np.inf), ZERO
            if bias.shape[0] > 0:
                added = bias[sample % bias.shape[0], head % bias.shape[1]]
                for token in range(num_tokens):
                    line[token] += added[token]
            for token in range(num_tokens):
                highest = max(highest, line[token])
            for token in range(num_tokens):
                line[token] = np.exp(line[token] - highest)
                total += line[token]
            share = ONE / (total * np.float32(heads))
            for token in range(num_tokens):
                paid[token] += line[token] * share
