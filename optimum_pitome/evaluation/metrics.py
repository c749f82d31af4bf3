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

"""Metrics as `evaluate.Metric` classes. `evaluate.load(name)` would download code from a hub; these come along.

Each gives its value with a 95 % confidence interval: a difference of one image in a hundred is seldom a difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import datasets
import evaluate


#: Quantile of the normal distribution for a two-sided interval of 95 %.
Z_95 = 1.959963984540054


def wilson_interval(successes: float, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: right near 0 and 1, too, where the normal approximation is not.

    Args:
        successes (`float`), total (`int`):
            The proportion is `successes / total`. Of scores between 0 and 1 their sum: the interval is wide enough.
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


class _Matches(evaluate.Metric):
    """Share of the predictions that equal their reference."""

    _name: str

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("keep_in_memory", True)  # no files, hence no locks between processes
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: class indices, one per sample.",
            features=datasets.Features(predictions=datasets.Value("int64"), references=datasets.Value("int64")),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        matches = sum(int(prediction) == int(reference) for prediction, reference in zip(predictions, references))
        low, high = wilson_interval(matches, len(references))
        return {self._name: matches / len(references), f"{self._name}_low": low, f"{self._name}_high": high}


class Accuracy(_Matches):
    """Share of the predictions that equal the label: `accuracy`, `accuracy_low`, `accuracy_high`.

    Example:

    ```python
    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"]
    0.6666666666666666
    ```
    """

    _name = "accuracy"


class Agreement(_Matches):
    """Share of the predictions that the dense model makes, too: `agreement`, `agreement_low`, `agreement_high`.

    The references are the dense model's predictions. No labels are needed, and a merged model that is right where the
    dense one is wrong counts as a difference: this measures faithfulness, not quality.
    """

    _name = "agreement"


_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}


def normalize_answer(answer: str) -> str:
    """An answer as visual question answering compares it: lower case, no punctuation, no articles, digits."""
    words = re.sub(r"[^\w\s]", " ", answer.lower().replace("'", "")).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


class VqaAccuracy(evaluate.Metric):
    """Accuracy of visual question answering (1505.00468): `vqa_accuracy`, `vqa_accuracy_low`, `vqa_accuracy_high`.

    References are the answers of all annotators, one or more per question. An answer counts in full when three of the
    other annotators gave it: the mean over leaving out one annotator of `min(1, matches / 3)`. With fewer than four
    annotators all others must agree, and with one the answer must be equal. Answers are compared after
    [`normalize_answer`].

    Example:

    ```python
    >>> VqaAccuracy().compute(predictions=["A bag."], references=[["bag"]])["vqa_accuracy"]
    1.0
    ```
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("keep_in_memory", True)
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: answers; references: the accepted answers of each question, as a list.",
            features=datasets.Features(
                predictions=datasets.Value("string"), references=datasets.Sequence(datasets.Value("string"))
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        scores = [_vqa_score(prediction, answers) for prediction, answers in zip(predictions, references)]
        # Scores in [0, 1] vary at most as right and wrong answers with the same mean do.
        low, high = wilson_interval(sum(scores), len(scores))
        return {"vqa_accuracy": sum(scores) / len(scores), "vqa_accuracy_low": low, "vqa_accuracy_high": high}


def _vqa_score(prediction: str, answers: Sequence[str]) -> float:
    if not answers:
        raise ValueError("A question without answers cannot be scored: references holds an empty list.")
    matches = [normalize_answer(answer) == normalize_answer(prediction) for answer in answers]
    if len(answers) == 1:
        return float(matches[0])
    needed = min(3, len(answers) - 1)
    return sum(min(1.0, (sum(matches) - match) / needed) for match in matches) / len(answers)


class Recall(evaluate.Metric):
    """Share of the queries that find a right answer among their first 1, 5 and 10: `recall@1`, `recall@1_low`,
    `recall@1_high`, and so on.

    `predictions` are candidates, best first, at least 10 per query (or all there are); `references` are the right
    ones, one or more per query. Image-text retrieval counts both ways, and Rsum (the paper's figure) is the sum of the
    six shares in percent.

    Example:

    ```python
    >>> Recall().compute(predictions=[[2, 0, 1], [1, 2, 0]], references=[[2], [0, 2]])["recall@1"]
    0.5
    ```
    """

    cutoffs = (1, 5, 10)

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("keep_in_memory", True)
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        indices = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: ranked candidates per query; references: the right ones per query.",
            features=datasets.Features(predictions=indices, references=indices),
        )

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> dict[str, float]:
        values = {}
        for cutoff in self.cutoffs:
            found = sum(not set(right).isdisjoint(ranked[:cutoff]) for ranked, right in zip(predictions, references))
            name = f"recall@{cutoff}"
            values[name] = found / len(references)
            values[f"{name}_low"], values[f"{name}_high"] = wilson_interval(found, len(references))
        return values
