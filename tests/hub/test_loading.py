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

"""`pitome=` through every way of loading, saving, and loading again."""

import json
import logging
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    BertModel,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
    pipeline,
)
from zoo.vit import pixel_values, vit_config

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled, remove_pitome
from optimum_pitome.configuration.checks import FORMAT_VERSION
from optimum_pitome.modeling.rewrite import rewritten_encoders


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A dense checkpoint, written by plain transformers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dense")
    model = ViTForImageClassification(vit_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def merged_checkpoint(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    ViTForImageClassification.from_pretrained(checkpoint, pitome=0.9).save_pretrained(folder)
    return folder


def test_our_warnings_come_after_those_about_the_weights(tmp_path):
    """A new head makes transformers list what the checkpoint lacks; a setting without effect is told below that."""
    ViTModel(vit_config()).save_pretrained(tmp_path)
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.Logger.warning_once.cache_clear()
    loggers = [logging.getLogger(name) for name in ("transformers", "optimum_pitome")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        settings = {"algorithm": "tome", "alpha": 0.37}
        ViTForImageClassification.from_pretrained(tmp_path, pitome=settings)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    report, ours = said[-2:]
    assert "classifier.weight" in report and "alpha has no effect here" in ours
    assert sum("no effect" in text for text in said) == 1


def ratio_of(model):
    """The ratio that the model's layers really use; `None` for a dense model."""
    layer = model.vit.layers[0] if hasattr(model, "vit") else model.layers[0]
    if "pitome_spec" not in vars(layer):
        assert type(layer).__module__.startswith("transformers.") and not hasattr(model.config, "pitome")
        return None
    ratio = 1 - layer.pitome_spec.ratio.removed_numerator / layer.pitome_spec.ratio.removed_denominator
    assert model.config.pitome["ratio"] == pytest.approx(ratio)
    return round(ratio, 6)


@pytest.mark.parametrize("value", [0.9, {"ratio": 0.9}, PiToMeConfig(ratio=0.9)], ids=["float", "dict", "config"])
@pytest.mark.parametrize("model_class", [AutoModelForImageClassification, ViTForImageClassification])
def test_the_keyword(checkpoint, model_class, value):
    model = model_class.from_pretrained(checkpoint, pitome=value)
    assert type(model) is ViTForImageClassification
    assert ratio_of(model) == 0.9
    assert model.config.pitome == {"ratio": 0.9, "format_version": FORMAT_VERSION}


@pytest.mark.parametrize("value", [False, None])
@pytest.mark.parametrize("model_class", [AutoModelForImageClassification, ViTForImageClassification])
def test_the_keyword_can_say_no(checkpoint, merged_checkpoint, model_class, value):
    assert ratio_of(model_class.from_pretrained(checkpoint, pitome=value)) is None
    assert ratio_of(model_class.from_pretrained(merged_checkpoint, pitome=value)) is None
    assert ratio_of(model_class.from_pretrained(checkpoint)) is None


@pytest.mark.parametrize("model_class", [AutoModelForImageClassification, ViTForImageClassification])
def test_a_rewritten_checkpoint_loads_rewritten(merged_checkpoint, model_class):
    assert ratio_of(model_class.from_pretrained(merged_checkpoint)) == 0.9
    assert ratio_of(model_class.from_pretrained(merged_checkpoint, pitome=0.8)) == 0.8
    assert ratio_of(model_class.from_pretrained(merged_checkpoint, pitome={"ratio": 0.7})) == 0.7


def test_other_classes_of_the_same_checkpoint(merged_checkpoint):
    assert ratio_of(AutoModel.from_pretrained(merged_checkpoint)) == 0.9
    model, info = ViTModel.from_pretrained(merged_checkpoint, output_loading_info=True, add_pooling_layer=False)
    assert ratio_of(model) == 0.9 and not info["missing_keys"]


def test_from_config(merged_checkpoint):
    config = AutoConfig.from_pretrained(merged_checkpoint)
    assert ratio_of(AutoModelForImageClassification.from_config(config)) == 0.9
    assert ratio_of(AutoModelForImageClassification.from_config(vit_config(), pitome=0.8)) == 0.8
    assert ratio_of(AutoModelForImageClassification.from_config(vit_config())) is None


def test_saving_keeps_weights_keys_and_type(checkpoint, merged_checkpoint):
    dense, merged = (json.loads((folder / "config.json").read_text()) for folder in (checkpoint, merged_checkpoint))
    assert merged.pop("pitome") == {"ratio": 0.9, "format_version": FORMAT_VERSION}
    assert merged == dense
    assert (merged_checkpoint / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_the_same_outputs_before_and_after_saving(checkpoint, merged_checkpoint):
    inputs = pixel_values(2)
    with torch.no_grad():
        before = ViTForImageClassification.from_pretrained(checkpoint, pitome=0.9)(**inputs).logits
        after = ViTForImageClassification.from_pretrained(merged_checkpoint)(**inputs).logits
        dense = ViTForImageClassification.from_pretrained(checkpoint)(**inputs).logits
    assert torch.equal(before, after) and not torch.equal(before, dense)


def test_without_the_package_it_is_the_dense_model(checkpoint, merged_checkpoint):
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForImageClassification\n"
        "first, second = (AutoModelForImageClassification.from_pretrained(path) for path in sys.argv[1:])\n"
        "pixel_values = torch.randn(1, 3, 32, 32)\n"
        "assert torch.equal(first(pixel_values).logits, second(pixel_values).logits)\n"
        "assert 'optimum_pitome' not in sys.modules\n"
        "assert type(second.vit.layers[0]).__module__ == 'transformers.models.vit.modeling_vit'\n"
    )
    subprocess.run([sys.executable, "-c", script, str(checkpoint), str(merged_checkpoint)], check=True)


def test_pipeline(checkpoint):
    from PIL import Image

    images = [Image.effect_noise((40, 40), 50 + i).convert("RGB") for i in range(3)]
    merged = pipeline("image-classification", model=str(checkpoint), model_kwargs={"pitome": 0.8})
    assert ratio_of(merged.model) == 0.8
    answers = merged(images, batch_size=2)
    with pitome_disabled(merged.model):
        dense = merged(images, batch_size=2)
    assert [len(answer) for answer in answers] == [3, 3, 3] and answers != dense


@pytest.mark.parametrize("model_class", [AutoModelForImageClassification, ViTForImageClassification])
def test_a_bad_value_is_refused_before_the_weights_are_read(tmp_path, checkpoint, merged_checkpoint, model_class):
    for folder in (checkpoint, merged_checkpoint):
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())  # no weights there
        with pytest.raises(ValueError, match="ratio=0.2 is out of range"):
            model_class.from_pretrained(tmp_path, pitome=0.2)
        with pytest.raises(ValueError, match="PiToMeConfig has no field 'ration'. Did you mean 'ratio'"):
            model_class.from_pretrained(tmp_path, pitome={"ration": 0.9})


def test_a_checkpoint_of_a_newer_version_is_refused(merged_checkpoint, tmp_path):
    config = json.loads((merged_checkpoint / "config.json").read_text())
    config["pitome"]["format_version"] = "2.0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="Upgrade optimum_pitome"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def test_the_card_on_save(checkpoint, tmp_path):
    model = ViTForImageClassification.from_pretrained(checkpoint, pitome=0.9)
    assert model.model_tags == ["pitome"]
    model.save_pretrained(tmp_path / "merged")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "- pitome" in card and "library_name: transformers" in card and "65 -> 59" in card
    assert "AutoModelForImageClassification.from_pretrained" in card
    (tmp_path / "merged" / "README.md").write_text("mine")
    model.save_pretrained(tmp_path / "merged")
    assert "\n---\nmine\n\n<!-- pitome:start" in (tmp_path / "merged" / "README.md").read_text()
    remove_pitome(model)
    model.save_pretrained(tmp_path / "merged")
    assert (tmp_path / "merged" / "README.md").read_text() == "---\nlibrary_name: transformers\n---\nmine\n"
    model.save_pretrained(tmp_path / "dense")
    assert not model.model_tags and not (tmp_path / "dense" / "README.md").exists()


def test_tags_do_not_leak_to_other_models(checkpoint):
    apply_pitome(ViTForImageClassification.from_pretrained(checkpoint), 0.9)
    assert not ViTForImageClassification.from_pretrained(checkpoint).model_tags


def test_reloading_onto_disk_and_cpu(checkpoint, tmp_path):
    inputs = pixel_values(2)
    device_map = {"vit.embeddings": "cpu", "vit.layers.0": "cpu", "vit.layers.1": "disk", "vit.layers.2": "disk"}
    device_map |= {"vit.layers.3": "cpu", "vit.layernorm": "cpu", "classifier": "cpu"}
    with torch.no_grad():
        expected = ViTForImageClassification.from_pretrained(checkpoint, pitome=0.8)(**inputs).logits
        offloaded = AutoModelForImageClassification.from_pretrained(
            checkpoint, pitome=0.8, device_map=device_map, offload_folder=tmp_path
        )
        assert offloaded.vit.layers[1].mlp.fc1.weight.device.type == "meta"
        assert torch.equal(offloaded(**inputs).logits, expected)


@pytest.mark.parametrize("pitome", [0.8, {"vision": 0.8}, None])
def test_a_model_put_together_from_two_checkpoints(tmp_path, pitome):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vision")
    BertModel(BertConfig(**sizes, vocab_size=20)).save_pretrained(tmp_path / "text")
    folders = (str(tmp_path / "vision"), str(tmp_path / "text"))
    model = VisionTextDualEncoderModel.from_vision_text_pretrained(*folders, pitome=pitome)
    assert [type(encoder).__name__ for encoder in rewritten_encoders(model)] == (["ViTModel"] if pitome else [])
    assert getattr(model.config, "pitome", None) is None or pitome
    captioner = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(*folders, pitome=pitome)
    assert len(rewritten_encoders(captioner)) == (1 if pitome else 0)
    with pytest.raises(ValueError, match="out of range"):
        VisionTextDualEncoderModel.from_vision_text_pretrained(*folders, pitome=0.1)
