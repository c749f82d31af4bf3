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


import json

import numpy as np
import pytest
import real_assets
import segmentation
import torch
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from example_runs import run_here
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, ViTConfig, ViTImageProcessorPil, ViTModel

from optimum_pitome import apply_pitome, pitome_disabled
from optimum_pitome.evaluation.pixels import PixelJudge


# Not on the floor: its AutoImageProcessor needs torchvision, which has no build for CPUs.
pytestmark = pytest.mark.slow

SIDE = 32


def squares(number, seed):
    """Bright squares on dark noise, and their masks."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(number):
        pixels, mask = generator.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        top, left = generator.integers(0, SIDE // 2, 2)
        inside = (slice(top, top + SIDE // 2), slice(left, left + SIDE // 2))
        pixels[inside] += 120
        mask[inside] = 1
        mask[0] = 255
        rows.append({"image": Image.fromarray(pixels), "mask": Image.fromarray(mask)})
    return Dataset.from_list(rows, features=Features(image=ImageFeature(), mask=ImageFeature()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny encoder with random weights, and pictures with masks."""
    model, data = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("data")
    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes, image_size=SIDE, patch_size=4), add_pooling_layer=False).save_pretrained(model)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(model)
    counts = {"train": 12, "validation": 3, "test": 4}
    DatasetDict({name: squares(count, count) for name, count in counts.items()}).save_to_disk(data)
    return model, data


def test_a_head_is_trained_and_merged_features_are_compared(monkeypatch, capsys, tmp_path, folders):
    model, data = folders
    monkeypatch.setattr(segmentation, "CANDIDATES", {"mutual": {"algorithm": "mutual"}})
    monkeypatch.setattr(segmentation, "COMPARED", {"dct": {"algorithm": "dct"}})
    photo = tmp_path / "photo.png"
    Image.new("RGB", (50, 40), "red").save(photo)
    options = ("--budgets", 1.35, 1.8, "--photos", photo, "--output-dir", tmp_path)
    run_here(monkeypatch, segmentation, "--model", model, "--dataset", data, *options)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    dense, *merged = rows
    # The head of a random encoder sees bright squares.
    assert np.mean(dense["scores"]["mean_iou"]) > 0.8 and len(dense["scores"]["iou_figure"]) == 4
    printed = capsys.readouterr().out
    chosen = printed.split("chosen on the validation part: ")[1].split("\n")[0]
    assert {row["name"] for row in merged} == {"reference", "dct", *({chosen} - {segmentation.DEFAULTS})}
    assert [row["gflops_dense"] / row["gflops_merged"] > 1.6 for row in merged].count(True) == len(merged) // 2
    assert "| dct | 1.8" in printed and "no difference shown" in printed
    for name in ("pictures.png", "photos.png", "iou_against_operations.png"):
        assert Image.open(tmp_path / name).width > 300


def test_intervals_are_of_the_mean_over_pictures():
    values = list(np.random.default_rng(0).normal(0.5, 0.1, 100))
    mean, low, high = (float(part.strip("[],")) for part in segmentation.with_interval(values).split())
    assert low < mean < high and mean == pytest.approx(100 * np.mean(values), abs=0.06)
    assert high - low == pytest.approx(100 * 2 * 1.96 * np.std(values) / 10, rel=0.2)
    assert segmentation.with_interval([0.25, 0.25], "+") == "+25.0"


@pytest.mark.real
def test_a_head_on_real_features_reads_merged_patches():
    """A few pictures. docs/dense_prediction.md has what all of them say."""
    path = real_assets.dinov2_small_as_vit()
    parts = segmentation.load_parts("pasted_stamps", {"train": 24, "test": 8})
    processor = AutoImageProcessor.from_pretrained(path)
    train, test = (segmentation.batches_of(part, processor, 8) for part in parts.values())
    model = segmentation.LinearSegmenter(AutoModel.from_pretrained(path), 2).eval()
    segmentation.train_head(model, segmentation.dense_features(model, train), train.references["labels"])
    judge, (batch,) = PixelJudge(model), list(test)
    labels = batch.pop("labels")
    apply_pitome(model, {"flops_ratio": 1.35})
    with torch.no_grad():
        merged = judge.answer(batch)
        with pitome_disabled(model):
            dense = judge.answer(batch)
    scores = judge.scores(dense, labels)
    assert np.mean(scores["mean_iou"]) > 0.6 and np.mean(scores["pixel_accuracy"]) > 0.9
    assert 0.95 < np.mean([judge.agree(*pair) for pair in zip(merged, dense)]) < 1.0
