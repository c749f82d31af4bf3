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

"""Whether two settings differ on the same samples, against cases computed by hand."""

import math

import numpy as np
import pytest

from optimum_pitome.evaluation.significance import MCNEMAR, PERMUTATION, holm, paired_test, verdict


def test_mcnemar_by_hand():
    """Of ten samples on which two settings differ, one is right on nine: 2 * (C(10, 0) + C(10, 1)) / 2**10."""
    first = [0.0] * 9 + [1.0] + [1.0] * 30 + [0.0] * 5
    second = [1.0] * 9 + [0.0] + [1.0] * 30 + [0.0] * 5
    p, test = paired_test(first, second)
    assert test == MCNEMAR and p == pytest.approx(2 * 11 / 2**10)
    assert paired_test(second, first)[0] == pytest.approx(p)
    assert paired_test([1, 0, 1], [1, 0, 1]) == (1.0, MCNEMAR)
    assert paired_test([1, 0], [0, 1])[0] == 1.0


def test_the_permutation_test_against_all_permutations():
    difference = np.array([0.3, 0.1, -0.1, 0.4, 0.2, 0.0, 0.2, 0.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1)
    sums = signs.T @ np.abs(difference[difference != 0])
    exact = (np.abs(sums) >= abs(difference.sum()) - 1e-9).mean()
    p, test = paired_test([0.5] * 8, list(0.5 + difference))
    assert test == PERMUTATION and abs(p - exact) < 5 * math.sqrt(exact / 9999) and 0.01 < exact < 0.05
    assert paired_test([0.5] * 8, list(0.5 + difference)) == (p, test)  # the same in every run
    # More comparisons need smaller p-values than 9,999 drawings can show.
    assert paired_test([0.0] * 50, [0.1] * 50)[0] == pytest.approx(2 / 10_000)
    assert paired_test([0.0] * 50, [0.1] * 50, num_comparisons=500)[0] == pytest.approx(2 / 100_001)


def test_what_is_near_the_level_is_drawn_finer():
    """Whether it is called a difference does not hang on the seed, nor on which of the two comes first."""
    difference = np.array([0.31, 0.13, -0.12, 0.42, 0.21, 0.17, 0.22, 0.53, 0.09, 0.11, 0.35, 0.05])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1)
    exact = (np.abs(signs.T @ np.abs(difference)) >= abs(difference.sum()) - 1e-9).mean()
    scores = [0.5] * 12, list(0.5 + difference)
    for seed in range(3):
        for first, second in (scores, scores[::-1]):
            p, _ = paired_test(first, second, num_comparisons=40, seed=seed)
            assert p == pytest.approx(exact, rel=0.25) and 0.05 < 40 * exact < 0.1


def test_noise_is_called_a_difference_one_time_in_twenty():
    generator, found = np.random.default_rng(0), []
    for _ in range(200):
        first = generator.random(60).round(1)
        second = (first + generator.choice([-0.1, 0.0, 0.1], 60)).round(1)
        found.append(paired_test(first, second)[0] < 0.05)
    assert 2 <= sum(found) <= 20  # binomial with p = 0.05: 10, standard deviation 3.1


def test_holm_by_hand():
    """The smallest counts four times, the next three times, then twice, once; none less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04, 0.04]) == pytest.approx([0.08, 0.08])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.02]) == [0.02]


def test_verdicts():
    assert verdict(0.1, 0.049) == "better" and verdict(-0.1, 0.049) == "worse"
    assert verdict(0.5, 0.05) == verdict(-0.5, 1.0) == verdict(0.0, 0.01) == "no difference shown"


def test_errors():
    with pytest.raises(ValueError, match="2 and 3 samples cannot be paired"):
        paired_test([0, 1], [0, 1, 1])
