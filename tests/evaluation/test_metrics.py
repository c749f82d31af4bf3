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

import pytest

from optimum_pitome.evaluation.metrics import Accuracy, Agreement, Recall, wilson_interval


def test_accuracy_and_agreement():
    result = Accuracy().compute(predictions=[0, 1, 1, 2], references=[0, 1, 0, 2])
    assert result["accuracy"] == 0.75
    assert result["accuracy_low"] < 0.75 < result["accuracy_high"]
    assert Agreement().compute(predictions=[1, 2], references=[1, 2])["agreement"] == 1.0


def test_batches_add_up():
    metric = Accuracy()
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add_batch(predictions=[1, 1], references=[1, 1])
    assert metric.compute()["accuracy"] == 0.75


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


def test_recall():
    ranked = [[3, 1, 2, 0, 4, 5, 6, 7, 8, 9, 10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    values = Recall().compute(predictions=ranked, references=[[3, 9], [10]])
    assert [values[f"recall@{k}"] for k in (1, 5, 10)] == [0.5, 0.5, 0.5]
    values = Recall().compute(predictions=ranked, references=[[7, 5], [4]])
    assert [values[f"recall@{k}"] for k in (1, 5, 10)] == [0.0, 0.5, 1.0]
    assert values["recall@1_low"] == 0.0 and 0.6 < values["recall@1_high"] < 0.7
