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

from .settings import ONE, REORDERED, SETTINGS, ZERO, is_marked, is_real


@njit(**SETTINGS)
def merge(first, last, hidden_states, weights, sizes, rows, counted, merged, merged_sizes, valid, lowest, logs):
    """The mean of each group of tokens, in the order and with the roundings of `MergePlan.merge`; its size, and its
    log size, which is `lowest` where no real token is.

    Args:
        hidden_states (`(B, N, dim)`); weights, sizes (`(B, N)`, or no samples: all 1); rows (`(B, N)`).
        counted (`(B, N)`), valid (`(B, n)`): masks.
        merged (`(B, n, dim)`), merged_sizes, logs (`(B, n)`): written.
    """
    num_tokens, dim = hidden_states.shape[1:]
    num_kept = merged.shape[1]
    totals = np.empty(num_kept, dtype=np.float32)
    for sample in range(first, last):
        start, sums, size = sample * num_kept, merged[sample], merged_sizes[sample]
        sums[:], size[:], totals[:] = ZERO, ZERO, ZERO
        for token in range(num_tokens):
            if is_real(counted, sample, token):
                slot = rows[sample, token] - start
                size[slot] += sizes[sample, token] if sizes.shape[0] > 0 else ONE
                totals[slot] += weights[sample, token] if weights.shape[0] > 0 else ONE
        for token in range(num_tokens):
            if is_real(counted, sample, token):
                slot = rows[sample, token] - start
                share = (weights[sample, token] if weights.shape[0] > 0 else ONE) / totals[slot]
                given, total = hidden_states[sample, token], sums[slot]
                for column in range(dim):
                    total[column] += given[column] * share
        for slot in range(num_kept):
            logs[sample, slot] = np.log(size[slot]) if is_real(valid, sample, slot) else lowest


@njit(**SETTINGS)
def move(first, last, rows, original_rows, composed, kept, special, protected, merged_special, merged_protected):
    """Where the original tokens go, and the marks of the tokens that are `kept`."""
    flat = rows.reshape(-1)
    for sample in range(first, last):
        if original_rows.shape[0] > 0:
            for token in range(original_rows.shape[1]):
                composed[sample, token] = flat[original_rows[sample, token]]
        for slot in range(kept.shape[1]):
            if special.shape[0] > 0:
                merged_special[sample, slot] = is_marked(special, sample, kept[sample, slot])
            if protected.shape[0] > 0:
                merged_protected[sample, slot] = is_marked(protected, sample, kept[sample, slot])


@njit(**REORDERED)
def class_attention(first, last, query, key, bias, valid, scaling, attention):
    """What the first token that is valid pays to each, the mean over the heads: `attention` `(B, 1, N)`.

    `query` is `(B, N, heads, dim)`, `key` `(B, N, key heads, dim)`, and `bias` `(B or 1, heads or 1, N)`, or has no
    samples.
    """
    num_tokens, heads, dim = query.shape[1:]
    shared = heads // key.shape[2]
    scores = np.empty((heads, num_tokens), dtype=np.float32)
    for sample in range(first, last):
        asking = 0
        while asking < num_tokens and not is_real(valid, sample, asking):
            asking += 1
        asking %= num_tokens  # where none is valid, the first
        for token in range(num_tokens):
            for head in range(heads):
                asked, given, score = query[sample, asking, head], key[sample, token, head // shared], ZERO
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
