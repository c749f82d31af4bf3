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

"""Options that contradict one another, or ask for what is not there, end a command before it reads weights."""

import sys

import pytest
from transformers import PreTrainedModel

from optimum_pitome import PiToMeConfig


DATA = ["--dataset", "reviews.csv", "--input-columns", "text"]
EVALUATE = ["evaluate", "bert", "--task", "text-classification", *DATA]
TUNE = ["tune", "bert", *DATA]
SPECTRUM = ["spectrum", "bert", *DATA]


@pytest.fixture
def refused(in_workplace, workplace, monkeypatch):
    """Runs a command line that is to be refused, where neither weights nor random ones can be had."""

    def read(*args, **kwargs):
        pytest.fail("weights were read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(read))
    monkeypatch.setattr(PreTrainedModel, "_from_config", classmethod(read))
    return lambda *line: in_workplace(*line, code=2)


@pytest.mark.parametrize(
    "line, message",
    [
        ([*EVALUATE, "--ratios", 0.9, 0.8, 0.7, "--model-card", "card.md"], "and these are 3. Compare them without"),
        ([*EVALUATE, "--flops-ratios", 1.2, 1.5, "--model-card", "card.md"], "and these are 2. Compare them without"),
        ([*EVALUATE, "--ratio", 0.9, "--ratios", 0.8], "--ratios and --ratio both say ratio: say it in one"),
        (
            ["benchmark", "bert", "--algorithms", "random", "pitome", "--settings", '{"algorithm": "tome"}'],
            "--algorithms and --settings both say algorithm: say it in one",
        ),
        ([*TUNE, "--max-loss", 9, "--seed", 1], "--seed is about the search for ratios, and a bound needs none"),
        ([*TUNE, "--min-agreement", 0.3, "--max-settings", 9], "--max-settings is about the search"),
        ([*EVALUATE, "--plot", "found.xyz"], "found.xyz: name a plot with its format at the end, one of"),
        ([*EVALUATE, "--plot", "found"], "found: name a plot with its format at the end"),
        ([*EVALUATE, "--device", "nowhere"], "--device nowhere"),
        ([*EVALUATE, "--base-model", "me/bert"], "--base-model is for the card"),
        (
            [*EVALUATE, "--instruction", "Be brief."],
            "--instruction is read by visual-question-answering, and --task is",
        ),
        ([*EVALUATE, "--max-new-tokens", 4], "--max-new-tokens is read by visual-question-answering"),
        (
            ["evaluate", "vit", "--task", "image-classification", "--dataset", "pets", "--max-length", 9],
            "--max-length is read by text-classification, token-classification, image-text-retrieval, feature-",
        ),
        (
            ["export", "bert", "-o", "out", "--format", "torch", "--split", "test"],
            "--split is about --dataset: name one",
        ),
        ([*EVALUATE, "--dtype", "float99"], "--dtype float99"),
        ([*TUNE, "--min-agreement", 99], "--min-agreement 99: expected a share below 1. Did you mean 0.99?"),
        ([*TUNE, "--min-agreement", 1.5], "min_agreement=1.5 is out of range"),
        ([*TUNE, "--min-agreement", 0.99, "--max-samples", 100], "100 inputs cannot show an agreement of 0.99"),
        ([*TUNE, "--max-loss", 0], "max_loss=0"),
        ([*TUNE, "--speed-up", 1], "speed_up=1.0 is out of range"),
        ([*TUNE, "--flops-ratio", 1.2, "--device", "nowhere"], "--device nowhere"),
        ([*TUNE, "--flops-ratio", 1.2, "--push-to-hub", "me/it"], "the recipe would name bert, a folder of this"),
        (["tune", "recipe", *DATA, "--flops-ratio", 1.2, "--push-to-hub", "me/it"], "the recipe would name bert, a"),
        ([*SPECTRUM, "--plot", "found.xyz"], "found.xyz: name a plot with its format at the end"),
        ([*SPECTRUM, "--flops-ratio", 1.2], "here one layer merges at a time"),
    ],
)
def test_before_weights(refused, workplace, monkeypatch, line, message):
    PiToMeConfig(ratio=0.9, base_model_name_or_path="bert").save_pretrained(workplace / "recipe")
    # Whether the account may write to the repository is not the question here.
    for name in ("check_push", "check_recipe_repository"):
        monkeypatch.setattr(f"optimum_pitome.commands.tune.{name}", lambda *args: None)
    assert message in refused(*line)


@pytest.mark.parametrize(
    "line, package, message",
    [
        ([*EVALUATE, "--plot", "found.png"], "matplotlib.figure", "A plot needs matplotlib"),
        ([*SPECTRUM, "--plot", "found.png"], "matplotlib.figure", "A plot needs matplotlib"),
        (["benchmark", "bert", "-o", "found"], "matplotlib.figure", "A plot needs matplotlib"),
        ([*TUNE, "--flops-ratio", 1.2], "cma", "Searching ratios needs the package cma"),
    ],
)
def test_packages_that_are_missing(refused, monkeypatch, line, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    assert message in refused(*line)


def test_a_broken_configuration_says_where(refused, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "pitome", ratio: 0.9}')
    said = refused("tune", tmp_path, *DATA, "--flops-ratio", 1.2)
    assert f"'{tmp_path / 'config.json'}' is not a valid JSON file" in said and "line 1 column 26" in said
