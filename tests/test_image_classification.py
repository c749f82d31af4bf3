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

import image_classification
import numpy as np
import pytest
import torch
from example_data import load, training_part, with_classes
from example_runs import assert_two_processes_give_the_numbers_of_one, results, run_here
from linear_probe import NUM_FOLDS, ProbeJudge
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
    first, second = results(tmp_path)
    assert [first["name"], second["name"]] == ["0.9", "0.8"] and first["num_tokens"] == second["num_tokens"] == [65]
    assert first["gflops_dense"] > first["gflops_merged"] > second["gflops_merged"]
    assert (first["tokens_left"], second["tokens_left"]) == ([49], [35])
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
    assert first["dense"]["accuracy"] == pytest.approx(right / 21)


def test_settings_and_a_trained_head(monkeypatch, tmp_path, model_folder, picture_folder):
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"algorithm": "tome", "ratio": 0.7}))
    options = ("--train-head", "--pitome", settings, "--max-samples", "20")
    run(monkeypatch, model_folder, picture_folder, tmp_path, *options)
    found = [row["settings"] for row in results(tmp_path)]
    assert [(one["algorithm"], one["ratio"]) for one in found] == [("tome", 0.9), ("tome", 0.8)]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(monkeypatch, tmp_path, model_folder, picture_folder):
    options = arguments(model_folder, picture_folder, "--train-head")
    assert_two_processes_give_the_numbers_of_one(monkeypatch, image_classification, options, tmp_path)


def test_what_does_not_fit_says_so(monkeypatch, tmp_path, model_folder, picture_folder):
    ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="are not those of the model"):
        run(monkeypatch, tmp_path, picture_folder, tmp_path)
    with pytest.raises(ValueError, match="split 'holdout': expected one of train"):
        load(str(picture_folder), "holdout")
    with pytest.raises(ValueError, match="split 'holdout': expected one of all, the splits of stamps"):
        load("stamps", "holdout")


def test_names_and_the_training_part(picture_folder):
    dataset, split = load(str(picture_folder))
    dataset, columns = with_classes(dataset, "image")
    assert (split, columns) == ("train", ["image", "label"]) and dataset.features["label"].names == sorted(NAMES)
    assert training_part(str(picture_folder), split) is None and training_part("stamps", "all") is None


def test_each_sample_is_judged_by_a_head_of_other_folds():
    """A head that has seen a sample knows its label, which nothing in the features tells; another does not."""
    generator = torch.Generator().manual_seed(0)
    features = list(torch.randn(60, 64, generator=generator).numpy())
    labels = torch.randint(0, 2, (60,), generator=generator).tolist()
    folds, seen = ProbeJudge(None, None), ProbeJudge(None, None)
    decisions = folds.decide(features, labels)
    right = sum(folds.scores(decisions, labels)["accuracy"])
    assert right < 45 and len(folds._folds) == NUM_FOLDS
    assert folds.decide(features, labels) == decisions
    order = torch.randperm(60, generator=generator).tolist()
    shuffled = ProbeJudge(None, None).decide([features[i] for i in order], [labels[i] for i in order])
    assert shuffled == [decisions[i] for i in order]
    seen.answer = lambda inputs: list(inputs["features"].numpy())
    seen.fit([{"features": torch.tensor(np.array(features)), "labels": torch.tensor(labels)}], torch.device("cpu"))
    assert sum(seen.scores(seen.decide(features, labels), labels)["accuracy"]) > right
