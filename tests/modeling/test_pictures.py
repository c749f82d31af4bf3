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

"""`image_size`: a budget is for the pictures that a model gets, which need not be those of its configuration."""

import pytest
import torch
from modeling.helpers import CASES
from training.tiny import needs_image_processors
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    BertModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)
from zoo.llava import IMAGE_SIZE, llava_config, make_processor
from zoo.text import bert_config
from zoo.vision_language import dual_encoder_config

from optimum_pitome import PiToMeConfig, apply_pitome, num_image_tokens, pitome_summary
from optimum_pitome.families.llava import processor as llava_processor
from optimum_pitome.modeling.pictures import picture_size_of
from optimum_pitome.modeling.registry import find_architecture
from optimum_pitome.modeling.rewrite import rewritten_encoders


SIDE, CONFIGURED = 32, 64
BUDGET = {"flops_ratio": 1.3}


def save(folder, processor=True, **size):
    """A ViT that is configured for 64 pixels, and a processor that makes 32."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=CONFIGURED, patch_size=4)).save_pretrained(folder)
    if processor:
        size = size or {"height": SIDE, "width": SIDE}
        ViTImageProcessorPil(size=size).save_pretrained(folder)
    return folder


def specs_of(model):
    (encoder,) = rewritten_encoders(model)
    return encoder.pitome.specs


@needs_image_processors
def test_a_budget_is_for_the_pictures_of_the_processor(tmp_path):
    model = AutoModel.from_pretrained(save(tmp_path / "dense"), pitome=BUDGET)
    assert model.config.pitome["image_size"] == SIDE and model.config.image_size == CONFIGURED
    summary = pitome_summary(model)
    assert summary.tokens[0] == 65 and summary.flops_ratio == pytest.approx(1.3, abs=0.03)
    # Saved, it is what it was, also without the processor.
    model.save_pretrained(tmp_path / "merged")
    assert "65 -> " in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    again = AutoModel.from_pretrained(tmp_path / "merged")
    assert specs_of(again) == specs_of(model) and again.config.pitome == model.config.pitome
    assert pitome_summary(again).tokens == summary.tokens
    # Who has a model in hand gets the same.
    dense = AutoModel.from_pretrained(tmp_path / "dense")
    assert specs_of(apply_pitome(dense, BUDGET)) == specs_of(model)
    # And a budget that was saved without a size stays that of the configuration.
    model.config.pitome = dict(BUDGET)
    model.config.save_pretrained(tmp_path / "dense")
    saved = AutoModel.from_pretrained(tmp_path / "dense")
    assert "image_size" not in saved.config.pitome and specs_of(saved) != specs_of(model)
    assert pitome_summary(saved).tokens[0] == 257
    # The keyword goes before it, and is no saved one.
    assert specs_of(AutoModel.from_pretrained(tmp_path / "dense", pitome=BUDGET)) == specs_of(model)


@needs_image_processors
def test_a_budget_that_only_these_pictures_keep_is_refused_before_the_weights(tmp_path):
    path = save(tmp_path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="num_tokens=100"):  # of 64 patches; of the configured size there are 256
        AutoModel.from_pretrained(path, pitome={"num_tokens": 100})


@pytest.mark.parametrize(
    "settings, processor",
    [
        (BUDGET, None),
        (BUDGET, {"height": CONFIGURED, "width": CONFIGURED}),
        ({**BUDGET, "image_size": CONFIGURED}, {"height": SIDE, "width": SIDE}),
        ({"ratio": 0.9}, {"height": SIDE, "width": SIDE}),
        ({"parts": {"vision": 0.9}}, {"height": SIDE, "width": SIDE}),
    ],
    ids=str,
)
def test_what_stays_at_the_configured_size(tmp_path, settings, processor):
    path = save(tmp_path, processor is not None, **(processor or {}))
    model = AutoModel.from_pretrained(path, pitome=settings)
    assert model.config.pitome.get("image_size") == settings.get("image_size")
    assert pitome_summary(model).tokens[0] == 257


def test_a_recipe_stays_as_it_is(tmp_path):
    path = save(tmp_path / "base")
    PiToMeConfig(**BUDGET, base_model_name_or_path=str(path)).save_pretrained(tmp_path / "recipe")
    assert "image_size" not in AutoModel.from_pretrained(tmp_path / "recipe").config.pitome
    PiToMeConfig(**BUDGET, image_size=SIDE, base_model_name_or_path=str(path)).save_pretrained(tmp_path / "recipe")
    model = AutoModel.from_pretrained(tmp_path / "recipe")
    assert pitome_summary(model).tokens[0] == 65


def test_the_size_in_the_settings_and_in_the_summary():
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.image_size, config.patch_size = CONFIGURED, 8
    model = apply_pitome(ViTModel(config), {**BUDGET, "image_size": [32, 64]})
    assert model.config.pitome["image_size"] == [32, 64] and config.image_size == CONFIGURED
    assert pitome_summary(model).tokens[0] == 33
    before = specs_of(model)
    assert pitome_summary(model, image_size=128).tokens[0] == 257 and specs_of(model) == before
    assert pitome_summary(model, image_size=(64, 64)).tokens[0] == 65
    with pytest.raises(ValueError, match="image_size=0: expected pixels of a side"):
        pitome_summary(model, image_size=0)
    with pytest.raises(ValueError, match=r"image_size=7: ViTModel .* makes no patch .*patch_size=8"):
        apply_pitome(model, {**BUDGET, "image_size": 7})


@pytest.mark.parametrize("name", CASES)
def test_every_family_counts_at_the_size_or_refuses_it(name):
    model = CASES[name].build()
    modules = [module for module in model.modules() if find_architecture(module) is not None]
    for encoder in modules:
        architecture = find_architecture(encoder)
        config = architecture.config_of(encoder)
        if not architecture.reads_pictures(config):
            assert architecture.count_tokens(config, 4096) == architecture.count_tokens(config)
            continue
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        assert architecture.count_tokens(config, [height, width]) == architecture.count_tokens(config)
        assert architecture.count_tokens(config, [2 * height, width]) > architecture.count_tokens(config)
        assert config.image_size == size


def test_texts_have_no_size():
    with pytest.raises(ValueError, match=r"image_size=32: BertModel \(the part 'text'\) reads no pictures"):
        apply_pitome(BertModel(bert_config()), {"ratio": 0.9, "image_size": 32})
    model = VisionTextDualEncoderModel(dual_encoder_config())
    with pytest.raises(ValueError, match=r"\(the part 'text'\) reads no pictures"):
        apply_pitome(model, {"parts": {"vision": 0.9, "text": {"ratio": 0.9, "image_size": 32}}})
    # What all parts share is for those that read pictures.
    apply_pitome(model, {"image_size": 64, "parts": {"vision": 0.9, "text": 0.9}})
    assert [encoder.layers[0].tokens_in for encoder in pitome_summary(model).encoders].count(257) == 1


@needs_image_processors
def test_inside_a_llava(tmp_path, monkeypatch):
    said, config, processor = [], llava_config(), make_processor()
    monkeypatch.setattr(llava_processor.logger, "warning_once", said.append)
    config.vision_config.image_size = 2 * IMAGE_SIZE
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, pitome={"parts": {"vision": {"num_tokens": 40}}})
    assert model.config.pitome["image_size"] == IMAGE_SIZE
    tokens = llava_processor.tokens_of_a_picture(processor, model)
    assert tokens == num_image_tokens(model) == num_image_tokens(model.config) == 40 and not said


def test_the_size_of_batches():
    pictures = {"pixel_values": torch.zeros(2, 3, 32, 48)}
    assert picture_size_of([pictures]) == [32, 48]
    assert picture_size_of([pictures, {"pixel_values": torch.zeros(1, 3, 32, 32)}]) is None
    assert picture_size_of([{"pixel_values": torch.zeros(2, 5, 3, 32, 32)}]) is None
    assert picture_size_of([{"input_ids": torch.zeros(2, 5)}, None]) is None
