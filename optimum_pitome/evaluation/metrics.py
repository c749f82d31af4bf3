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

"""Shares of right answers with 95 % intervals: a difference of one image in a hundred is seldom a difference."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch

from ..analysis.intervals import Z_95, half_width


_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}


def wilson_interval(successes: float, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: right near 0 and 1, too, where the normal approximation is not.

    Args:
        successes (`float`), total (`int`):
            The proportion is `successes / total`.
        z (`float`): quantile of the normal distribution.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: if `total` is 0, or `successes` is not in [0, total].
    """
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"successes={successes}, total={total}: expected 0 <= successes <= total and total >= 1.")
    share, scale = successes / total, 1.0 / (1.0 + z**2 / total)
    centre = (share + z**2 / (2 * total)) * scale
    half_width = z * scale * math.sqrt(share * (1.0 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def share(name: str, scores: Sequence[float]) -> dict[str, float]:
    """The mean of scores between 0 and 1 under `name`, and the ends of its 95 % interval under `_low` and `_high`.

    The interval is Wilson's where every score is 0 or 1. Scores between them (neighbours kept out of ten, the IoU of a
    picture) vary less than right and wrong answers with the same mean, for which Wilson's is far too wide: theirs is
    Student's over the samples. A single sample says nothing of how scores vary, so it gets Wilson's, the widest.
    """
    total, number = math.fsum(scores), len(scores)
    mean = total / max(number, 1)
    if number < 2 or {0.0, 1.0}.issuperset(scores):
        low, high = wilson_interval(total, number)
    else:
        half = float(half_width(torch.tensor(scores, dtype=torch.float64)))
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def paired_difference(name: str, first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """The mean of `second - first` over the same samples, with the ends of its interval as in [`share`].

    What both score alike tells nothing about the difference, so the interval is much narrower than those of the two
    means. It is that of Agresti and Min (2005): two more samples, of which half a sample speaks for either side, keep
    it honest where few samples differ, or none. What they say is as much as any sample says that differs; where none
    does, a whole answer.
    """
    differences = [after - before for before, after in zip(first, second)]
    number, total = len(differences) + 2, math.fsum(differences)
    centre = total / number
    widest = max(map(abs, differences), default=0.0) or 1.0
    variance = (math.fsum(difference**2 for difference in differences) + widest**2) / number - centre**2
    half_width = Z_95 * math.sqrt(variance / number)
    mean = total / len(differences)
    return {name: mean, f"{name}_low": centre - half_width, f"{name}_high": centre + half_width}


def normalize_answer(answer: str) -> str:
    """An answer as visual question answering compares it: lower case, no punctuation, no articles, digits."""
    words = re.sub(r"[^\w\s]", " ", answer.lower().replace("'", "")).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_score(prediction: str, answers: Sequence[str]) -> float:
    """The accuracy of one answer in visual question answering (1505.00468), between 0 and 1.

    `answers` are those of all annotators. An answer counts in full when three of the other annotators gave it: the
    mean over leaving out one annotator of `min(1, matches / 3)`. With fewer than four annotators all others must
    agree, and with one the answer must be equal. Answers are compared after [`normalize_answer`].

    Raises:
        ValueError: if there are no answers.
    """
    if not answers:
        raise ValueError("A question without answers cannot be scored: its list of answers is empty.")
    matches = [normalize_answer(answer) == normalize_answer(prediction) for answer in answers]
    if len(answers) == 1:
        return float(matches[0])
    needed = min(3, len(answers) - 1)
    return sum(min(1.0, (sum(matches) - match) / needed) for match in matches) / len(answers)
