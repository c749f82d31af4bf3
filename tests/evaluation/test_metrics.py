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

import math
import types

import numpy as np
import pytest
import scipy.stats

from optimum_pitome.evaluation.judges import RetrievalJudge
from optimum_pitome.evaluation.metrics import normalize_answer, paired_difference, share, vqa_score, wilson_interval


def test_wilson_interval_against_published_values():
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, total), (low, high) in published.items():
        found = wilson_interval(successes, total)
        assert found[0] == pytest.approx(low, abs=1e-4) and found[1] == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize("successes, total", [(0, 0), (2, 1), (-1, 5)])
def test_an_impossible_proportion_is_refused(successes, total):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, total)


def test_share():
    found = share("accuracy", [1.0, 0.0, 1.0, 1.0])
    assert found["accuracy"] == 0.75 and (found["accuracy_low"], found["accuracy_high"]) == wilson_interval(3, 4)
    # A single sample does not say how scores vary.
    assert tuple(share("kept", [0.5]).values()) == (0.5, *wilson_interval(0.5, 1))


def test_scores_between_right_and_wrong_have_students_interval():
    """Neighbours kept out of ten: 95 % intervals hold the truth in about 95 of 100 draws, and are those of SciPy."""
    generator, truth, draws = np.random.default_rng(0), 0.9, 1000
    held = 0
    for _ in range(draws):
        scores = generator.binomial(10, truth, 100) / 10
        found = share("kept", scores.tolist())
        low, high = scipy.stats.ttest_1samp(scores, truth).confidence_interval(0.95)
        assert (found["kept_low"], found["kept_high"]) == pytest.approx((low, min(1.0, high)))
        held += low <= truth <= high
    assert 0.93 < held / draws < 0.97
    ends = share("kept", [1.0] * 9 + [0.5])
    assert ends["kept_high"] == 1.0 and ends["kept_low"] == pytest.approx(0.95 - 0.11311, abs=1e-5)


def test_paired_difference_against_agresti_and_min():
    # 2005, section 4: the adjusted Wald interval of matched pairs, from the counts of each kind of pair.
    both, first, second, neither = 794, 86, 150, 570
    before = [1.0] * (both + first) + [0.0] * (second + neither)
    after = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    found = paired_difference("accuracy", before, after)
    number = both + first + second + neither + 2
    centre = (second - first) / number
    error = math.sqrt(second + first + 1 - (second - first) ** 2 / number) / number
    assert found["accuracy"] == pytest.approx(64 / 1600)
    assert found["accuracy_low"] == pytest.approx(centre - 1.96 * error, abs=1e-5)
    assert found["accuracy_high"] == pytest.approx(centre + 1.96 * error, abs=1e-5)
    # Much narrower than what the two means alone know, and still open where nothing differs.
    assert found["accuracy_high"] - found["accuracy_low"] < 0.04
    same = paired_difference("accuracy", before, before)
    assert same["accuracy"] == 0 and -0.01 < same["accuracy_low"] < 0 < same["accuracy_high"] < 0.01

    # Scores in smaller steps: the same in the unit of a step.
    tenths = paired_difference("kept", [score / 10 for score in before], [score / 10 for score in after])
    assert [10 * value for value in tenths.values()] == pytest.approx(list(found.values()))


def test_answers_are_compared_as_the_task_does():
    assert normalize_answer("A bag.") == normalize_answer("the Bag") == "bag"
    assert normalize_answer("Two dogs") == "2 dogs" and normalize_answer("it's") == "its"


@pytest.mark.parametrize(
    "prediction, answers, expected",
    [
        ("yes", ["Yes"], 1.0),
        ("yes", ["no"], 0.0),
        ("2", ["two"] * 3 + ["three"] * 7, 0.9),  # 3 of 10: the three who said so find two others
        ("2", ["two"] * 4 + ["three"] * 6, 1.0),
        ("2", ["two"] + ["three"] * 9, 0.3),
        ("cat", ["dog", "cat"], 0.5),
    ],
)
def test_vqa_score(prediction, answers, expected):
    assert vqa_score(prediction, answers) == pytest.approx(expected)
    with pytest.raises(ValueError, match="without answers cannot be scored"):
        vqa_score(prediction, [])


def test_recall():
    model = types.SimpleNamespace(get_image_features=None, get_text_features=None)
    captions = [[f"{picture}"] for picture in range(12)]
    ranked = [[picture, *(other for other in range(12) if other != picture)] for picture in range(12)]
    ranked[0] = [3, 0, *range(4, 12)]  # second
    ranked[1] = [3, 4, 5, 6, 7, 8, 1]  # seventh
    ranked[2] = [3]  # nowhere
    scores = RetrievalJudge(model).scores(ranked + ranked, captions)
    assert [12 - sum(scores[f"image_to_text_recall@{cutoff}"]) for cutoff in (1, 5, 10)] == [3, 2, 1]
    assert scores["text_to_image_recall@5"][:3] == [1, 0, 0]
