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

"""The merging core once more: slow, obvious, one sample and one token at a time, in float64, from the paper alone.

`Decisions` notes how close each discrete choice was. A test that compares with the package, which computes in float32,
rejects examples with a near tie instead of loosening what it asserts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import numpy as np


@dataclass
class Decisions:
    """The smallest gap between what was chosen and what was not. Exact ties go by position and do not count."""

    closest: float = math.inf

    def note(self, gap: float, exact: bool = True) -> None:
        """`exact`: equal numbers here are equal in float32, too."""
        if gap > 0 or not exact:
            self.closest = min(self.closest, gap)


@dataclass
class Merge:
    """What happens to one sample: token indices of the original sequence.

    Attributes:
        pairs: (source, target) of each token that merges.
        kept: real tokens that stay, ascending.
        dropped: (source, the token that stands for it) of each token that goes without merging.
        sequence: what the DCT runs along; the tokens of it that are in `kept` say where its results stand.
    """

    pairs: list[tuple[int, int]]
    kept: list[int]
    decisions: Decisions = field(default_factory=Decisions)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)

    def group_of(self, token: int) -> int:
        """The kept token that `token` went to."""
        return dict(self.pairs + self.dropped).get(token, token)


def num_removed(num_mergeable: int, ratio: str) -> int:
    """k = floor(M - M r), the ratio being the decimal that the user wrote."""
    return int((num_mergeable * (1 - Decimal(ratio))).to_integral_value(rounding="ROUND_FLOOR"))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a, b) / (max(np.linalg.norm(a), 1e-12) * max(np.linalg.norm(b), 1e-12)))


def energy_term(name: str, x: float, margin: float, alpha: float) -> float:
    if name == "paper":  # equation 4
        return x if x >= margin else alpha * (math.exp(x - margin) - 1)
    if name == "elu":
        return x - margin if x >= margin else alpha * (math.exp(x - margin) - 1)
    sigma = 1 - margin
    return math.exp(-(((1 - x) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))


def weights(attention: np.ndarray | None, exponent: float, num_tokens: int) -> list[float]:
    """What each token weighs in its distances; `attention` of the tokens that may merge."""
    if attention is None or exponent == 0:
        return [1.0] * num_tokens
    mean = sum(attention) / num_tokens
    return [max(value / mean, 0.2) ** (exponent / 2) for value in attention]


def similarity(i: int, j: int, features: np.ndarray, weight: list[float]) -> float:
    """The cosine, its distance from 1 stretched by the weights of the two."""
    i, j = min(i, j), max(i, j)
    if weight[i] == weight[j] == 1.0:
        return cosine(features[i], features[j])
    return 1 - (1 - cosine(features[i], features[j])) * weight[i] * weight[j]


def energies(name: str, features, margin: float, alpha: float, decisions: Decisions, weight) -> list[float]:
    """One score per token of `features` `(M, dim)`: only tokens that may merge."""
    scores = []
    for i in range(len(features)):
        cosines = [similarity(i, j, features, weight) for j in range(len(features))]
        if name == "nearest":
            scores.append(max((cosines[j] for j in range(len(features)) if j != i), default=-1e6))
        else:
            if name == "paper":  # it jumps at the margin
                for x in cosines:
                    decisions.note(abs(x - margin))
            scores.append(sum(energy_term(name, x, margin, alpha) for x in cosines) / len(features))
    if name != "nearest" and len(set(scores)) < len(scores):
        # Two tokens alone: float32 rounds the similarity of each with itself, which these energies count.
        decisions.note(1e-9)
    return scores


def ranking(scores: list[float], decisions: Decisions, num_ranked: int, exact: bool = True) -> list[int]:
    """Indices by descending score, equal scores by position; the first `num_ranked` must be beyond doubt."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    for upper, lower in list(zip(order, order[1:]))[:num_ranked]:
        decisions.note(scores[upper] - scores[lower], exact)
    return order


def most_similar(token: int, others: list[int], features: np.ndarray, decisions: Decisions, weight: list[float]):
    found = ((similarity(token, j, features, weight), -position) for position, j in enumerate(others))
    cosines = sorted(found, reverse=True)
    if len(cosines) > 1:
        decisions.note(cosines[0][0] - cosines[1][0])
    return cosines[0][0], others[-cosines[0][1]]


def hash_position(position: int, count: int, seed: int = 0) -> int:
    """The chance of `"random"` and `"pitome_random_split"`: the numbers that `tests/merging/test_random.py` pins."""
    modulus = 2**31 - 1
    value = (position * 48271 + count * 69621 + 1013904223 + seed * 982451653) % modulus
    for _ in range(3):
        value = (value * value + 12345) % modulus
        value = (value * 16807 + position * 630360016 + count * 742938285) % modulus
    return value


def match(
    algorithm,
    features,
    ratio,
    energy,
    margin=0.5,
    alpha=1.0,
    num_prefix=0,
    special=(),
    valid=None,
    attention=None,
    importance=0.0,
    protected=(),
) -> Merge:
    """Matches the tokens of one sample.

    Args:
        features: `(N, dim)`, padding included.
        ratio: a decimal, as a string.
        special: indices of further tokens that never merge.
        valid: `N` booleans, real tokens. `None`: all.
        attention: `N` values, what the class token pays to each.
        protected: indices of tokens that are counted but do not merge, while the others are more than k.
    """
    features = np.asarray(features, dtype=np.float64)
    real = [i for i in range(len(features)) if valid is None or valid[i]]
    mergeable = [i for i in real if i >= num_prefix and i not in special]
    k = num_removed(len(mergeable), ratio)
    unprotected = [i for i in mergeable if i not in protected]
    if len(unprotected) > k:
        mergeable = unprotected
    room = len(mergeable) - k
    decisions = Decisions()
    if algorithm == "dct":
        return resampling(real, mergeable, k)
    pairs = []
    weight = np.ones(len(features))
    if mergeable:
        weight[mergeable] = weights(None if attention is None else attention[mergeable], importance, len(mergeable))
    if k > 0 and algorithm == "diffrate":
        order = sorted(mergeable, key=lambda token: (-attention[token], token))
        stay, go = order[:room], order[room:]
        for cut in (room, len(order) - k // 2):  # in what order they stay, merge or go plays no part
            if cut < len(order):
                decisions.note(attention[order[cut - 1]] - attention[order[cut]])
        joins = [(token, most_similar(token, stay, features, decisions, weight)[1]) for token in go]
        pairs, dropped = joins[: k - k // 2], joins[k - k // 2 :]
        return Merge(pairs, [i for i in real if i not in go], decisions, dropped)
    if k > 0 and algorithm == "mutual":
        pairs = mutual_pairs(mergeable, k, features, decisions, weight)
        gone = {source for source, _ in pairs}
        return Merge(pairs, [i for i in real if i not in gone], decisions)
    if k > 0 and algorithm.startswith("pitome"):
        scores = energies(energy, features[mergeable], margin, alpha, decisions, weight[mergeable])
        needed = len(mergeable) if algorithm == "pitome_unprotected" else 2 * k
        # Sums of equal numbers in another order need not be equal.
        order = [mergeable[i] for i in ranking(scores, decisions, needed, exact=energy == "nearest")][:needed]
        halves = algorithm in ("pitome_halves", "pitome_random_split")
        if algorithm == "pitome_random_split":
            chance = {token: (hash_position(i, len(mergeable)), i) for i, token in enumerate(mergeable)}
            order = sorted(order, key=chance.get, reverse=True)
        proposers, accepters = (order[:k], order[k:]) if halves else (order[0::2], order[1::2])
        if room < k and not halves:  # fewer than k of every second one
            accepters = order[1 : 2 * room : 2]
            proposers = [token for token in order if token not in accepters]
    elif k > 0:
        # Alternating positions, the prefix counted, padding and special tokens not: even ones propose.
        proposers = [token for place, token in enumerate(mergeable) if (place + num_prefix) % 2 == 0]
        accepters = [token for place, token in enumerate(mergeable) if (place + num_prefix) % 2 == 1]
        if room < k:
            accepters = accepters[:room]
            proposers = [token for token in mergeable if token not in accepters]
    if k > 0:
        proposals = [(a, *most_similar(a, accepters, features, decisions, weight)) for a in proposers]
        best = ranking([score for _, score, _ in proposals], decisions, k)[:k]
        if algorithm in ("pitome", "pitome_halves", "pitome_random_split"):
            assert len(proposals) == k
        pairs = [(proposals[i][0], proposals[i][2]) for i in best]
    gone = {source for source, _ in pairs}
    return Merge(pairs, [i for i in real if i not in gone], decisions)


def mutual_pairs(mergeable: list[int], k: int, features, decisions: Decisions, weight) -> list[tuple[int, int]]:
    """Mutual nearest neighbours first, then tokens that point at another one, then what mutual pairs are left as."""
    nearest, closeness = {}, {}
    for token in mergeable:
        others = [other for other in mergeable if other != token]
        closeness[token], nearest[token] = most_similar(token, others, features, decisions, weight)
    level = {token: 2 if nearest[nearest[token]] == token else 1 for token in mergeable}
    level |= {token: 0 for token in mergeable if level[token] == 2 and token < nearest[token]}
    order = []
    for of_level in (2, 1, 0):
        tokens = [token for token in mergeable if level[token] == of_level]
        taken = len(tokens) if of_level == 0 else min(k - len(order), len(tokens))
        order += [tokens[i] for i in ranking([closeness[token] for token in tokens], decisions, max(taken, 0))]
    joins = {token: order[-1] if level[token] == 0 else nearest[token] for token in order[:k]}

    def stays_of(token: int) -> int:
        return token if token not in joins else stays_of(joins[token])

    return [(token, stays_of(token)) for token in order[:k]]


def resampling(real: list[int], sequence: list[int], k: int) -> Merge:
    """Which tokens the results of a DCT over `sequence` stand for: each its nearest, by the middles of both."""
    m = len(sequence)
    n = m - k
    if k == 0:
        return Merge([], real)
    # A result covers m / n tokens; its middle lies in one of them, and the middle of each token lies in one result.
    stays = [sequence[math.floor((j + Fraction(1, 2)) * m / n)] for j in range(n)]
    pairs = []
    for place, token in enumerate(sequence):
        if token not in stays:
            pairs.append((token, stays[math.floor((place + Fraction(1, 2)) * n / m)]))
    gone = [token for token, _ in pairs]
    return Merge(pairs, [i for i in real if i not in gone], sequence=sequence)


def dct(values: np.ndarray, n: int) -> np.ndarray:
    """The orthonormal DCT-II of `(m, dim)`, its lowest `n` frequencies, and the inverse at length `n`, constants kept:
    `(n, dim)`."""
    m = len(values)
    spectrum = []
    for f in range(n):
        norm = math.sqrt((1 if f == 0 else 2) / m)
        spectrum.append(norm * sum(values[t] * math.cos(math.pi * f * (2 * t + 1) / (2 * m)) for t in range(m)))
    shorter = []
    for j in range(n):
        value = np.zeros(values.shape[1])
        for f in range(n):
            norm = math.sqrt((1 if f == 0 else 2) / n)
            value += norm * spectrum[f] * math.cos(math.pi * f * (2 * j + 1) / (2 * n))
        shorter.append(value * math.sqrt(n / m))
    return np.array(shorter)


def merged(
    merge: Merge, hidden_states: np.ndarray, sizes: np.ndarray, combine: str = "mean", keep_norm: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of the groups, and their sizes, in the order of `merge.kept`.

    `combine`: their size-weighted means; `"mlerp"`: with the norm of the longest; `"target"`: the kept token itself.
    `keep_norm`: the power of the ratio of the members' mean norm to that of their mean, by which this gets longer.
    """
    hidden_states = hidden_states.astype(np.float64)
    if merge.sequence:
        stays = [token for token in merge.sequence if token in merge.kept]
        results = dict(zip(stays, dct(hidden_states[merge.sequence], len(stays))))
        size = sum(sizes[merge.sequence]) / len(stays)
        vectors = [results.get(token, hidden_states[token]) for token in merge.kept]
        return np.array(vectors), np.array([size if token in stays else sizes[token] for token in merge.kept])
    vectors, totals = [], []
    for token in merge.kept:
        members = [token] + [source for source, target in merge.pairs if target == token]
        total = sum(sizes[i] for i in members)
        vector = sum(sizes[i] * hidden_states[i] for i in members) / total
        if combine == "mlerp" and len(members) > 1:
            vector *= max(np.linalg.norm(hidden_states[i]) for i in members) / np.linalg.norm(vector)
        if keep_norm and len(members) > 1:
            norm = sum(sizes[i] * np.linalg.norm(hidden_states[i]) for i in members) / total
            vector *= (norm / np.linalg.norm(vector)) ** keep_norm
        vectors.append(hidden_states[token] if combine == "target" else vector)
        totals.append(total)
    return np.array(vectors), np.array(totals)


def attention_weights(query, key, sizes, real) -> np.ndarray:
    """softmax(q k / sqrt(d) + log s) over the real keys, one head: `(n, n)`."""
    rows = []
    for q in query.astype(np.float64):
        scores = np.array([q @ k / math.sqrt(len(q)) + math.log(s) for k, s in zip(key.astype(np.float64), sizes)])
        weights = np.where(real, np.exp(scores - scores[real].max()), 0.0)
        rows.append(weights / weights.sum())
    return np.array(rows)


def proportional_attention(query, key, value, sizes, real) -> np.ndarray:
    """[`attention_weights`] times v, one head: `(n, d)` each."""
    return attention_weights(query, key, sizes, real) @ value.astype(np.float64)
