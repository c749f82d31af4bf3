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

"""Files appear whole, or not at all."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTModel
from zoo.vit import pixel_values, vit_config

from optimum_pitome import apply_pitome, visualize
from optimum_pitome.visualization.saving import save_picture, write_files


def test_a_picture_and_its_files(tmp_path):
    torch.manual_seed(0)
    model = apply_pitome(ViTModel(vit_config(), add_pooling_layer=False), {"ratio": 0.8, "min_tokens": 1})
    sample = visualize(model, pixel_values(1))[0]
    paths = save_picture(sample, tmp_path / "new", "one", [0, -1], 64, {"from": "noise"})
    assert [path.name for path in paths] == ["one.png", "one-layers.gif", "one.json"]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    with Image.open(paths[0]) as still, Image.open(paths[1]) as moving:
        assert still.size == sample.picture([0, -1], 64).size and moving.info["loop"] == 0
        assert moving.n_frames == len(sample.layers) + 1
    found = json.loads(paths[2].read_text())
    assert found["from"] == "noise" and found["layers"][-1]["groups"] == sample.layers[-1].groups.tolist()


def test_nothing_is_half_written(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:1])
        if "b" in path.name:
            raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path, {"a": b"new", "b.png": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"
