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

"""Recipes: settings without weights."""

import json

import pytest
import torch
from hub.test_loading import checkpoint, ratio_of  # noqa: F401
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTForImageClassification,
    ViTModel,
    pipeline,
)
from transformers.models.auto import modeling_auto

import optimum_pitome
from optimum_pitome import PiToMeConfig, PiToMeModel


HAS_IMAGE_PROCESSORS = "from_pretrained" in vars(AutoImageProcessor)


@pytest.fixture
def recipe(checkpoint, tmp_path):  # noqa: F811
    PiToMeConfig(ratio=0.8, base_model_name_or_path=str(checkpoint)).save_pretrained(tmp_path / "recipe")
    return tmp_path / "recipe"


def test_it_is_small_and_holds_no_weights(recipe):
    assert sorted(path.name for path in recipe.iterdir()) == ["README.md", "config.json"]
    assert (recipe / "config.json").stat().st_size < 1024
    assert json.loads((recipe / "config.json").read_text())["model_type"] == "pitome"
    assert "- pitome" in (recipe / "README.md").read_text()


def test_autoconfig_reads_it(recipe, checkpoint):  # noqa: F811
    config = AutoConfig.from_pretrained(recipe)
    assert config == PiToMeConfig(ratio=0.8, base_model_name_or_path=str(checkpoint))


def test_auto_classes_load_what_it_names(recipe):
    model = AutoModelForImageClassification.from_pretrained(recipe)
    assert type(model) is ViTForImageClassification and ratio_of(model) == 0.8
    assert "base_model_name_or_path" not in model.config.pitome
    assert type(AutoModel.from_pretrained(recipe)) is ViTModel
    assert ratio_of(AutoModelForImageClassification.from_pretrained(recipe, pitome=0.9)) == 0.9
    assert ratio_of(AutoModelForImageClassification.from_pretrained(recipe, pitome=False)) is None
    assert AutoModel.from_pretrained(recipe, dtype=torch.float16).dtype == torch.float16


def test_from_config(recipe):
    assert ratio_of(AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(recipe))) == 0.8


def test_the_classes_themselves(recipe):
    assert ratio_of(optimum_pitome.PiToMeForImageClassification.from_pretrained(recipe)) == 0.8
    assert ratio_of(PiToMeModel.from_pretrained(recipe)) == 0.8
    with pytest.raises(TypeError, match="is not a model: it loads one"):
        PiToMeModel(PiToMeConfig())


def test_every_auto_class_has_a_variant():
    auto_classes = [value for name, value in vars(modeling_auto).items() if name.startswith("AutoModelFor")]
    assert len(auto_classes) > 20
    assert all(PiToMeConfig in auto_class._model_mapping for auto_class in auto_classes)


def test_errors(tmp_path):
    PiToMeConfig(ratio=0.8).save_pretrained(tmp_path / "nameless")
    with pytest.raises(ValueError, match="names no model. Set base_model_name_or_path"):
        AutoModel.from_pretrained(tmp_path / "nameless")
    PiToMeConfig(ratio=0.8, base_model_name_or_path=str(tmp_path / "loop")).save_pretrained(tmp_path / "loop")
    with pytest.raises(ValueError, match="never come to a model: .*loop -> .*loop. Set base_model_name_or_path"):
        AutoModel.from_pretrained(tmp_path / "loop")


@pytest.fixture
def text_recipe(tmp_path):
    vocabulary = {"[UNK]": 0, "[PAD]": 1, "a": 2, "b": 3}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        tmp_path / "text_base"
    )
    sizes = {"vocab_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path / "text_base")
    PiToMeConfig(ratio=0.5, base_model_name_or_path=str(tmp_path / "text_base")).save_pretrained(
        tmp_path / "text_recipe"
    )
    return tmp_path / "text_recipe"


def test_tokenizers_and_processors_are_those_of_the_model(recipe, text_recipe, tmp_path):
    assert AutoTokenizer.from_pretrained(text_recipe).get_vocab().keys() >= {"a", "b"}
    assert AutoProcessor.from_pretrained(text_recipe).get_vocab().keys() >= {"a", "b"}
    assert len(pipeline("text-classification", model=str(text_recipe))("a b a b")) == 1
    with pytest.raises(ValueError, match="names no model"):
        PiToMeConfig(ratio=0.8).save_pretrained(tmp_path / "nameless")
        AutoTokenizer.from_pretrained(tmp_path / "nameless")


@pytest.mark.skipif(not HAS_IMAGE_PROCESSORS, reason="this transformers has no AutoImageProcessor without torchvision")
def test_image_processors_are_those_of_the_model(recipe, text_recipe):
    for auto_class in (AutoImageProcessor, AutoProcessor):
        assert auto_class.from_pretrained(recipe).size == {"height": 32, "width": 32}
    classifier = pipeline("image-classification", model=str(recipe))
    assert ratio_of(classifier.model) == 0.8
    assert len(classifier(Image.new("RGB", (40, 40)))) == 3
    with pytest.raises(OSError, match="Can't load image processor"):
        AutoImageProcessor.from_pretrained(text_recipe)
    with pytest.raises(OSError):
        AutoImageProcessor.from_pretrained(recipe / "nowhere")
