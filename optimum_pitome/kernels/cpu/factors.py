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

"""What is compared, as `kernels/gpu/factors.py` has it: masks, and unit vectors with their weights."""

from __future__ import annotations

import numpy as np
from numba import njit

from .settings import ONE, REORDERED, SETTINGS, ZERO, is_marked, is_real


# Of bfloat16.py and settings.py, for Numba's cache: b94eeec88f49


@njit(**SETTINGS)
def _read_masks(sample, num_tokens, rules, masks, alternate, turns):
    """Which tokens of a sample may merge: `turns` `(N,)` is 1 there, and where they `alternate`, 1 for those that
    propose and 2 for those that accept. As `Candidates.read`.

    Returns:
        The sample's k, how many targets it has room for where tokens are protected, and how many tokens are real.
    """
    prefix, front, back, numerator, denominator, min_tokens, multiple_of = rules
    valid, special, protected = masks
    count = real = 0
    for token in range(num_tokens):
        here = is_real(valid, sample, token)
        may = here and prefix + front <= token < num_tokens - back
        may = may and (special.shape[0] == 0 or not is_marked(special, sample, token))
        turns[token] = may
        real += here
        count += may
    pairs = min(count * numerator // denominator, max(count - min_tokens, 0))
    pairs = max(pairs - (pairs - real) % multiple_of, 0)
    if protected.shape[0] > 0:
        free = 0
        for token in range(num_tokens):
            free += turns[token] == 1 and not is_marked(protected, sample, token)
        if free > pairs:
            count = free
            for token in range(num_tokens):
                turns[token] = turns[token] == 1 and not is_marked(protected, sample, token)
    if alternate:
        place = prefix
        for token in range(num_tokens):
            if turns[token] == 1:
                turns[token] = 1 + place % 2
                place += 1
    return pairs, count - pairs, real


@njit(**SETTINGS)
def _weigh(attention, turns, exponent, weights):
    """As `candidates.importance_weights`: `weights` `(N,)` from `attention` `(heads, N)`."""
    heads, num_tokens = attention.shape
    total, count = ZERO, 0
    for token in range(num_tokens):
        paid = ZERO
        for head in range(heads):
            paid += attention[head, token]
        weights[token] = paid
        if turns[token] != 0:
            total += paid
            count += 1
    # The factor of a mean over the heads cancels.
    mean = max(total / np.float32(max(count, 1)), np.float32(1.1754943508222875e-38))
    for token in range(num_tokens):
        relative = max(weights[token] / mean, np.float32(0.2))
        if exponent == 0.25:  # that of the defaults, for which roots are quicker
            weights[token] = np.sqrt(np.sqrt(relative))
        else:
            weights[token] = relative ** np.float32(exponent)


@njit(**REORDERED)
def _factor(features, weight, out):
    """The mean of `features` `(heads, dim)` over the heads, `weight` long: `out` `(dim,)`."""
    heads, dim = features.shape
    for column in range(dim):
        out[column] = features[0, column]
    for head in range(1, heads):
        for column in range(dim):
            out[column] += features[head, column]
    share, square = ONE / np.float32(heads), ZERO
    for column in range(dim):
        out[column] *= share
        square += out[column] * out[column]
    scale = weight / max(np.sqrt(square), np.float32(1e-12))
    for column in range(dim):
        out[column] *= scale


@njit(**SETTINGS)
def factors(first, last, features, attention, exponent, rules, masks, alternate, left, right, weights, turns, counts):
    """What is compared: the mean of `features` `(B, N, heads, dim)` over the heads, as long as its token weighs.

    Args:
        attention (`(B, heads, N)`, or no samples): by head, what the class token pays; `exponent`: of the weight.
        rules (`tuple[int, ...]`): the prefix; how many more tokens never merge, after it and at the end; `removed`.
        masks (`tuple` of three): `valid`, `special`, `protected`.
        left, right (`(B, P, dim)`): where tokens `alternate`, those that propose and those that accept, in their
            order; otherwise both are the same, and have all `M` tokens between the ends. Written.
        weights (`(B, N)`), turns (`(B, N)`), counts (`(B, 3)`): of the tokens, as [`_read_masks`] has them, and k,
            room and real tokens. Written.
    """
    num_tokens, start, stop = features.shape[1], rules[0] + rules[1], features.shape[1] - rules[2]
    for sample in range(first, last):
        turn, weight = turns[sample], weights[sample]
        counts[sample, 0], counts[sample, 1], counts[sample, 2] = _read_masks(
            sample, num_tokens, rules, masks, alternate, turn
        )
        if attention.shape[0] > 0:
            _weigh(attention[sample], turn, exponent, weight)
        else:
            weight[:] = ONE
        if not alternate:
            for token in range(start, stop):
                _factor(features[sample, token], weight[token], left[sample, token - start])
            continue
        proposed = accepted = 0
        for token in range(num_tokens):
            if turn[token] == 1:
                _factor(features[sample, token], weight[token], left[sample, proposed])
                proposed += 1
            elif turn[token] == 2:
                _factor(features[sample, token], weight[token], right[sample, accepted])
                accepted += 1
        # Nothing reads their products, but numbers that are none take long to multiply.
        left[sample, proposed:], right[sample, accepted:] = ZERO, ZERO
