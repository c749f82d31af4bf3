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


"""`optimum-cli pitome spectrum`, on tiny models and data on disk."""

import argparse
import functools
import json

import pytest

from optimum_pitome.analysis.spectrum import GRAPHS
from optimum_pitome.commands.options import add_options


@pytest.fixture
def spectrum(in_workplace):
    return functools.partial(in_workplace, "spectrum")


TEXTS = ("bert", "--dataset", "reviews.csv", "--input-columns", "text")


def test_texts(spectrum):
    options = (*TEXTS, "--ratio", 0.6, "--min-tokens", 1)
    text = spectrum(*options)
    assert "keeps 0.6" in text and "W = 1 - cos of the hidden states" in text and "pitome, paper energy" in text
    found = json.loads(spectrum(*options, "--json"))
    assert len(found["settings"]) == len(found["loss"]) and len(found["loss"][0][0]) == 12
    assert set(found["correlations"]) >= {"all", "within a layer"}


def test_chosen_settings_and_a_plot(spectrum, tmp_path):
    options = ("--settings", '{"algorithm": "tome"}', '{"energy": "elu"}', "--layers", 1, "--graph", "similarity")
    text = spectrum(*TEXTS, *options, "--ratio", 0.6, "--max-samples", 6, "--plot", tmp_path / "plot.png")
    assert "algorithm=tome" in text and "energy=elu" in text and "max(cos, 0)" in text and "6 samples" in text
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert "random" not in spectrum(*TEXTS, "--algorithm", "tome", "--ratio", 0.6)


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_pictures(spectrum):
    assert "8 samples" in spectrum("vit", "--dataset", "pets", "--max-samples", 8, "--algorithm", "pitome")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--flops-ratio", 1.2], "one layer merges at a time"),
        (["--ratio", "0.9,0.8"], "expected one number between 0 and 1"),
        (["--layers", 5], "expected some of the layers 0 to 1"),
        (["--ratio", 0.99], "merges nothing at ratio=0.99"),
        (["--device", "nowhere"], "--device nowhere"),
        (["--max-samples", 0], "--max-samples 0: expected at least 1"),
    ],
)
def test_errors(spectrum, options, message):
    assert message in spectrum(*TEXTS, *options, code=2)


def test_every_graph_is_an_option():
    parser = argparse.ArgumentParser()
    add_options(parser, "spectrum")
    for graph in GRAPHS:
        assert parser.parse_args(["model", "--dataset", "data", "--graph", graph]).graph == graph
