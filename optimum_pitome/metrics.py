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
from collections.abc import Sequence

import datasets
import evaluate


#: Quantile of the normal distribution for a two-sided interval of 95 %.
Z_95 = 1.959963984540054


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: right near 0 and 1, too, where the normal approximation is not.

    Args:
        successes, total (`int`): the proportion is `successes / total`.
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
