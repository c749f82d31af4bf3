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
"""`optimum-cli pitome export`, as a user calls it. What files say is tested in `tests/export`."""

import json
from types import SimpleNamespace

import pytest
import torch
from export.helpers import quick_format
from transformers import AutoConfig, BertForSequenceClassification, ViTConfig, ViTModel
from zoo.llava import CASES as LLAVA

from optimum_pitome import PiToMeConfig
from optimum_pitome.commands import export as command
from optimum_pitome.commands.results import Results
from optimum_pitome.export import export as export_module


@pytest.fixture
def export(optimum_cli, workplace, monkeypatch):
    """The command in the workplace, with a format that is quick to write."""
    monkeypatch.setitem(export_module.WRITERS, "torch", quick_format())
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workplace / "cache")
    return lambda *args, **kwargs: optimum_cli("pitome", "export", *args, "--format", "torch", **kwargs)


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_a_classifier_with_data(export, tmp_path):
    text = export("vit", "--ratio", 0.8, "--dataset", "pets", "-o", tmp_path / "out")
    assert "pixel_values -> logits" in text and "made up, 4 samples in 2 batches" in text
    assert "your data, 12 samples in 2 batches" in text and "same class in 100.00 %" in text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pitome"]["ratio"] == 0.8
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    error = export(tmp_path / "out", "-o", tmp_path / "again", code=2)
    assert "was exported already" in error and "Name the model that it was exported from: vit" in error


def test_texts_and_a_recipe(export, tmp_path):
    recipe = PiToMeConfig(ratio=0.7, layers=[0], base_model_name_or_path="bert")
    recipe.save_pretrained(tmp_path / "recipe")
    text = export(tmp_path / "recipe", "--dataset", "reviews.csv", "-o", tmp_path / "out")
    assert "input_ids, token_type_ids, attention_mask -> logits" in text or "-> logits" in text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pitome"]["ratio"] == 0.7
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_tokenizer_that_knows_no_words_is_not_written(export, optimum_cli, tmp_path):
    BertForSequenceClassification.from_pretrained("bert").save_pretrained(tmp_path / "saved")
    export(tmp_path / "saved", "--ratio", 0.8, "-o", tmp_path / "out")
    assert "No tokenizer could be read, so none is written beside" in optimum_cli.errors[-1]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_checkpoints_in_bfloat16_are_loaded_in_float32(export, workplace, tmp_path):
    BertForSequenceClassification.from_pretrained(workplace / "bert").bfloat16().save_pretrained(tmp_path / "bert")
    export(tmp_path / "bert", "--ratio", 0.8, "-o", tmp_path / "out")
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_models_of_sentence_transformers_are_loaded_in_float32(monkeypatch, tmp_path):
    package = pytest.importorskip("sentence_transformers", reason="these checkpoints are theirs")
    (tmp_path / "modules.json").write_text("[]")
    given = {}
    monkeypatch.setattr(package, "SentenceTransformer", lambda name, **options: given.update(options))
    args = SimpleNamespace(model=str(tmp_path), revision="main")
    command._load(args, None, {"pitome": {"ratio": 0.8}}, None)
    assert given["model_kwargs"] == {"pitome": {"ratio": 0.8}, "dtype": torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("vit", "--ratio", 0.3), "ratio=0.3 is out of range"),
        (("vit", "--layers", 9), "layers=[9]: the model has"),
        (("vit", "--part", "vision"), "ViTForImageClassification has no get_image_features"),
        (("vit", "--opset", 17), "opset=17 is for format='onnx'"),
        (("vit", "--private"), "--private is for a repository: name one with --push-to-hub"),
        (("vit", "--push-to-hub", "no/such/name"), "Repo id must be in the form"),
        (("./nowhere",), "./nowhere: there is no such folder. Name a folder with a model or a recipe, or a Hub id"),
        (("some/where/else",), "some/where/else: there is no such folder"),
        (("vit", "--dataset", "pets", "--batch-size", 0), "--batch-size 0: expected at least 1"),
        (("vit", "--dataset", "pets", "--max-samples", 0), "--max-samples 0: expected at least 1"),
    ],
)
def test_bad_requests_end_before_weights_are_read(export, tmp_path, options, message, monkeypatch):
    monkeypatch.setattr("safetensors.safe_open", lambda *args, **kwargs: pytest.fail("weights were read"))
    error = export(*options, "-o", tmp_path / "out", code=2)
    assert message in error and "Traceback" not in error and list(tmp_path.iterdir()) == []


def test_models_that_generate_are_refused_by_their_configuration(export, tmp_path):
    config = next(case for case in LLAVA if case.id == "LlavaForConditionalGeneration").config()
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(tmp_path / "llava")  # there are no weights
    error = export(tmp_path / "llava", "-o", tmp_path / "out", code=2)
    assert "generates text" in error and "get_encoder" in error


def test_random_weights_are_told(monkeypatch, tmp_path):
    """Of what a checkpoint lacks, such as the pooler of an encoder that was taken out of a classifier."""
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    args, results, notes = SimpleNamespace(model=str(tmp_path), revision="main", part=None), Results("export"), []
    monkeypatch.setattr(results, "note", notes.append)
    command._load(args, AutoConfig.from_pretrained(tmp_path), {"pitome": {"ratio": 0.8}}, results)
    (note,) = notes
    assert "has no weights of pooler.dense. They are random in the exported file" in note
    ViTModel(config).save_pretrained(tmp_path)
    command._load(args, AutoConfig.from_pretrained(tmp_path), {"pitome": {"ratio": 0.8}}, results)
    assert len(notes) == 1
