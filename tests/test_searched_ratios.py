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

"""The example that measures what a search is worth: its figures by hand, and one run."""

import json
import re

import numpy as np
import pytest
import searched_ratios
import torch
from example_runs import run_here
from training.tiny import Pictures
from transformers import ViTModel
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig


def test_losses_and_neighbours_by_hand():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(30, 8, generator=generator)
    losses, kept = searched_ratios.compare(dense, dense)
    assert losses == pytest.approx(np.zeros(30), abs=1e-6) and kept == 1
    losses, kept = searched_ratios.compare(dense, 2 * dense.mean(dim=0) - dense)  # each on the other side of the mean
    assert losses == pytest.approx(np.full(30, 2.0), abs=1e-5)
    mirrored = dense[torch.randperm(30, generator=generator)]
    assert searched_ratios.compare(dense, mirrored)[1] < 0.6


def test_how_much_less_is_lost():
    others = np.linspace(1, 2, 50)
    assert searched_ratios.less(others / 2, others) == "50.0 % (50.0 to 50.0)"
    share, low, high = map(float, re.findall(r"-?[\d.]+", searched_ratios.less(others[::-1] / 2, others)))
    assert share == 50.0 and low < 50 < high


def test_a_search_is_compared_with_the_profiles(monkeypatch, capsys, tmp_path):
    torch.manual_seed(0)
    model = ViTModel(vit_config(), add_pooling_layer=False)
    seen, *unseen = ([{"pixel_values": Pictures(12, seed=seed).pixels}] for seed in (0, 1, 2))
    read = (model, seen, dict(zip(("others", "squares"), unseen)), None)
    monkeypatch.setattr(searched_ratios, "load_photos", lambda numbers: read)
    arguments = ["photos", "--flops-ratios", "1.2", "--max-settings", "18", "--output-dir", tmp_path]
    run_here(monkeypatch, searched_ratios, *arguments)
    *lines, settings, _, _ = capsys.readouterr().out.split("\n")
    count = len(searched_ratios.STARTS) + 12  # the title, five other means with two profiles each, what was found
    for name, (title, *rows) in (("others", lines[:count]), ("squares", lines[count:])):
        assert title.startswith(f"{name}, 1.2 x, 12 inputs")
        assert len(rows) == count - 1 and rows[-1].startswith("found ")
        assert rows[-11].startswith("one ratio, weighted by attention ")
        assert rows[-2].startswith("default profile, weighted by attention, all of the norm kept ")
        assert all(re.search(r"1\.2\d x fewer operations", row) for row in rows)
    assert PiToMeConfig(**json.loads(settings)).ratio is not None and getattr(model, "pitome", None) is None
    assert [path.name for path in tmp_path.iterdir()] == ["photos-1.2-0.jsonl"]
