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

"""Whether two settings differ on the same samples, and how many comparisons that was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


#: A difference whose corrected p-value reaches this is not called one.
ALPHA = 0.05
#: So many random signs at least.
_RESAMPLES = 9_999
#: So many times more where the p-value is near `ALPHA`, this many times more or less: drawing again should not decide.
_FINER, _NEAR = 20, 5
#: Of numbers that are held at once.
_BATCH = 10**7

MCNEMAR = "McNemar's exact test"
PERMUTATION = "permutation test"


def paired_test(
    first: Sequence[float], second: Sequence[float], num_comparisons: int = 1, seed: int = 0
) -> tuple[float, str]:
    """Whether chance alone would make two settings differ so much on the same samples, to either side.

    Where all scores are 0 or 1, McNemar's exact test: of the samples on which the two differ, each side is right on
    half. Otherwise a permutation test of the mean difference: under chance, which of a sample's two scores belongs to
    which setting is a toss of a coin.

    Args:
        first, second (`Sequence[float]`): scores of the same samples in the same order.
        num_comparisons (`int`): of how many this is one: so many more permutations can be told from chance.
        seed (`int`): of the permutations, which are drawn.

    Returns:
        The two-sided p-value, and the name of the test.

    Raises:
        ValueError: if there are not as many of both.
    """
    from scipy import stats  # takes a second

    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} samples cannot be paired: expected the same samples.")
    difference = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    difference = difference[difference != 0]
    binary = {0.0, 1.0}.issuperset(first) and {0.0, 1.0}.issuperset(second)
    test = MCNEMAR if binary else PERMUTATION
    if not len(difference):
        return 1.0, test
    if binary:
        return float(stats.binomtest(int((difference > 0).sum()), len(difference)).pvalue), test
    generator, sizes = np.random.default_rng(seed), np.abs(difference)
    # SciPy's permutation_test takes seconds for what this does in a fraction of one.
    number = max(_RESAMPLES, 200 * num_comparisons)
    for resamples in (number, _FINER * number):
        found = stats.monte_carlo_test(
            difference,
            lambda size: (2 * generator.integers(0, 2, size, dtype=np.int8) - 1) * sizes,
            np.sum,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _BATCH // len(difference)),
        )
        if not ALPHA / _NEAR < num_comparisons * found.pvalue < ALPHA * _NEAR:
            break
    return float(found.pvalue), test


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm, 1979): the chance that any difference that is called one is none
    stays below the level, whatever depends on what. The smallest of `m` counts `m` times, the next `m - 1` times, and
    so on, and none less than one before it."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def verdict(difference: float, corrected: float) -> str:
    """What may be said of a mean difference with its corrected p-value."""
    if corrected >= ALPHA or difference == 0:
        return "no difference shown"
    return "better" if difference > 0 else "worse"
