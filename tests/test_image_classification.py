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

"""The image classification example, as a user starts it: on a folder of pictures, and on two processes."""

import json
from types import SimpleNamespace

import common
import image_classification
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from example_runs import assert_two_processes_give_the_numbers_of_one, results, run_here
from image_data import load_labelled_pictures, model_labels
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil


# Not on the floor: its AutoImageProcessor needs torchvision, which has no build for CPUs.
pytestmark = pytest.mark.slow

NAMES = ("dots", "stripes", "plain")


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory):
    """An image folder: three classes of seven pictures."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name in NAMES:
        (root / name).mkdir()
        for index in range(7):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny classifier whose labels have the names of the folders, in another order."""
    root = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    labels = dict(enumerate(["plain", "dots", "stripes"]))
    config = ViTConfig(
        **sizes, image_size=32, patch_size=4, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(root)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root)
    return root


def arguments(model, data, *more):
    return ["--model", model, "--dataset", data, "--ratios", "0.9", "0.8", "--batch-size", "4", *more]


def run(monkeypatch, model, data, output, *more):
    run_here(monkeypatch, image_classification, *arguments(model, data, "--output-dir", output, *more))


def test_a_folder_of_pictures(monkeypatch, capsys, tmp_path, model_folder, picture_folder):
    run(monkeypatch, model_folder, picture_folder, tmp_path)
    dense, *merged = results(tmp_path)
    assert [row["ratio"] for row in (dense, *merged)] == [1.0, 0.9, 0.8]
    assert dense["agreement"] == 1.0 and dense["speed_up"] == 1.0 and dense["tokens"] == 65
    assert dense["gflops"] > merged[0]["gflops"] > merged[1]["gflops"]
    assert [row["tokens"] for row in merged] == [49, 35]
    assert all(row["samples_per_second"] > 0 for row in merged)
    assert Image.open(tmp_path / "accuracy_against_flops.png").width > 500
    printed = capsys.readouterr().out
    assert "dense" in printed and "21 pictures" in printed
    # Labels are matched by name: the same numbers come out of the model by hand.
    model = ViTForImageClassification.from_pretrained(model_folder).eval()
    processor = ViTImageProcessorPil.from_pretrained(model_folder)
    right = 0
    for name in NAMES:
        pictures = [Image.open(path) for path in sorted((picture_folder / name).iterdir())]
        with torch.no_grad():
            predicted = model(**processor(pictures, return_tensors="pt")).logits.argmax(-1)
        right += (predicted == model.config.label2id[name]).sum().item()
    assert dense["accuracy"] == pytest.approx(right / 21)


def test_settings_and_a_trained_head(monkeypatch, tmp_path, model_folder, picture_folder):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"algorithm": "tome", "ratio": 0.7}))
    options = ("--train-head", "--pitome", settings, "--max-samples", "8")
    run(monkeypatch, model_folder, picture_folder, tmp_path, *options)
    assert [row["ratio"] for row in results(tmp_path)] == [1.0, 0.9, 0.8]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(monkeypatch, tmp_path, model_folder, picture_folder):
    options = arguments(model_folder, picture_folder, "--train-head")
    assert_two_processes_give_the_numbers_of_one(monkeypatch, image_classification, options, tmp_path)


def test_what_does_not_fit_says_so(tmp_path, picture_folder):
    pictures = load_labelled_pictures(str(picture_folder), None, False, None)
    with pytest.raises(ValueError, match="--train-head"):
        model_labels(pictures, ViTConfig(num_labels=5))
    with pytest.raises(ValueError, match="no such split"):
        load_labelled_pictures(str(picture_folder), "holdout", False, None)


def test_each_sample_is_judged_by_the_head_of_its_fold():
    heads = [torch.nn.Linear(2, 3) for _ in range(3)]
    for answer, head in enumerate(heads):  # the head of fold i always says i
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.nn.functional.one_hot(torch.tensor(answer), 3).float()

    class Classifier(torch.nn.Module):
        head = common.HeldOutHeads(heads)

        def forward(self, features):
            return SimpleNamespace(logits=self.head(features))

    folds = [0, 2, 1, 1, 2, 0]
    rows = [{"features": torch.zeros(2), "labels": fold, "fold": fold} for fold in folds]
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(torch.utils.data.DataLoader(rows, 2))
    values, _ = common.evaluate(Classifier(), loader, {}, accelerator, len(rows), "row")
    assert values[1.0]["accuracy"] == 1.0
