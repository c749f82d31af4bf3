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

"""What users write, how it is understood, and what a configuration knows of its fields."""

import copy
import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling.helpers import build
from transformers import BertConfig, CLIPVisionConfig, ViTConfig

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.configuration.config import configurations
from optimum_pitome.configuration.fields import FIELDS
from optimum_pitome.modeling import registry
from optimum_pitome.modeling.registry import find_architecture


@pytest.mark.parametrize("value", [0.85, np.float32(0.85), np.float16(0.85), np.float64(0.85), torch.tensor(0.85)])
def test_a_number_is_what_was_written(value):
    """0.85 as a float32 is 0.8500000238418579, of which 20 tokens would lose 2 instead of 3."""
    assert PiToMeConfig(value).ratio == 0.85 and type(PiToMeConfig(value).ratio) is float
    assert PiToMeConfig([value, 1]).ratio == [0.85, 1.0]
    assert PiToMeConfig.from_value({"vision": value}).parts == {"vision": {"ratio": 0.85}}


def test_arrays_are_lists():
    config = PiToMeConfig(np.linspace(1, 0.7, 4), layers=np.arange(4), margin=torch.tensor([0.5, 0.25, 0, -0.5]))
    assert config.ratio == pytest.approx([1, 0.9, 0.8, 0.7]) and config.layers == [0, 1, 2, 3]
    assert config.margin == [0.5, 0.25, 0.0, -0.5]
    assert PiToMeConfig(layers=range(3), min_tokens=np.int64(4)).to_pitome_dict()["layers"] == [0, 1, 2]


def test_a_configuration_that_was_changed_is_checked_again(tmp_path):
    config = PiToMeConfig(0.8)
    assert PiToMeConfig.from_value(config) is config
    config.ratio = 0.2
    with pytest.raises(ValueError, match="ratio=0.2 is out of range"):
        apply_pitome(torch.nn.Identity(), config)
    config.ratio = np.float64(0.75)
    assert type(PiToMeConfig.from_value(config).ratio) is float
    config.ratio = None
    assert PiToMeConfig.from_value(config) == PiToMeConfig(0.9)
    config.ratio, config.flops_ratio = None, 1.5
    assert PiToMeConfig.from_value(config) == PiToMeConfig(flops_ratio=1.5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config.ratio.append(0.2), r"ratio\[2\]=0.2 is out of range"),
        (lambda config: config.layers.append(0), "names a layer twice"),
        (lambda config: config.parts["text"].update(ratio=2), r"parts\['text'\]: ratio=2 is out of range"),
        (lambda config: setattr(config, "unmerge", 1), "unmerge=1: expected True, False"),
    ],
)
def test_a_change_inside_a_configuration_is_noticed(change, message):
    config = PiToMeConfig([0.9, 0.8], layers=[0, 1], unmerge=True, parts={"text": 0.9})
    assert PiToMeConfig.from_value(copy.deepcopy(config)) == config
    change(config)
    with pytest.raises(ValueError, match=message):
        PiToMeConfig.from_value(config)


def test_configurations_share_nothing():
    first = PiToMeConfig()
    first.id2label[0] = "changed"
    first.model_arguments["dtype"] = "float16"
    assert PiToMeConfig().id2label[0] == "LABEL_0" and not PiToMeConfig().model_arguments
    assert vars(PiToMeConfig()).keys() == vars(PiToMeConfig(return_dict=False)).keys()


def test_the_fields_are_documented():
    signature = inspect.signature(PiToMeConfig)
    assert list(signature.parameters) == list(FIELDS)
    for name, parameter in signature.parameters.items():
        usual = FIELDS[name].usual if name == "ratio" else None
        assert parameter.default == FIELDS[name].default
        assert getattr(PiToMeConfig(), name) == (parameter.default if usual is None else usual)
        assert f"        {name} (`" in PiToMeConfig.__doc__
    assert "ratio (`float` or `list[float]`, *optional*, usually `0.9`):" in PiToMeConfig.__doc__
    assert PiToMeConfig(0.8, [1]) == PiToMeConfig(layers=[1], ratio=0.8)
    with pytest.raises(TypeError, match="multiple values for argument 'ratio'"):
        PiToMeConfig(0.8, ratio=0.9)


def test_the_table_of_settings_has_every_field():
    text = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text[: text.index("\n## ")], flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(set(FIELDS) - {"format_version"})


UNDERSTOOD = {
    "a part of anybody's": ({"audio": 0.9}, {"audio": {"ratio": 0.9}}),
    "several": ({"audio": {"ratio": 0.8}, "video": None}, {"audio": {"ratio": 0.8}}),
    "a configuration": ({"speech": PiToMeConfig(0.7)}, {"speech": {"ratio": 0.7}}),
    "the defaults": ({"vision": {}}, {"vision": {}}),
}


@pytest.mark.parametrize("what", UNDERSTOOD)
def test_parts_by_name(what):
    value, parts = UNDERSTOOD[what]
    assert PiToMeConfig.from_value(value).parts == parts


def test_a_part_that_an_architecture_names(monkeypatch):
    model = build("ViTForImageClassification")
    architecture = replace(find_architecture(model.vit), part="audio")
    monkeypatch.setitem(registry._ARCHITECTURES, type(model.vit), architecture)
    apply_pitome(model, {"audio": 0.8})
    assert model.config.pitome["parts"] == {"audio": {"ratio": 0.8}}
    assert [spec.ratio.is_dense for spec in model.vit.pitome.specs] == [False] * 4
    with pytest.raises(ValueError, match="no part 'vision'. Parts of this model that can merge: 'audio'"):
        apply_pitome(model, {"vision": 0.8})


MISUNDERSTOOD = {
    "misspelt": ({"ratoi": 0.9}, ["no field 'ratoi'", "Did you mean 'ratio'?"]),
    "misspelt, a dict": ({"layer": {"ratio": 0.9}}, ["no field 'layer'", "Did you mean 'layers'?"]),
    "misspelt beside a part": ({"vision": 0.9, "alhpa": 1.0}, ["no field 'alhpa'", "Did you mean 'alpha'?"]),
    "a part beside a field": ({"ratio": 0.9, "audio": 0.8}, ["no field 'audio'", "{'parts': {'audio': 0.8}}"]),
    "misspelt in a part": ({"audio": {"ration": 0.9}}, ["parts['audio']", "no field 'ration'", "'ratio'?"]),
    "no settings": ({"audio": "high"}, ["no field 'audio'", "Fields: ratio"]),
    "no settings of a known part": ({"vision": "high"}, ["parts['vision']", "'high' is not understood"]),
    "for loading": ({"ratio": 0.9, "dtype": "float16"}, ["no field 'dtype'", "pass it to from_pretrained"]),
    "parts of a part": ({"vision": {"parts": {"text": 0.9}}}, ["parts['vision']", "has no parts of its own"]),
    "no name": ({"ratio": 0.9, 1: 2}, ["no field 1", "Fields: ratio"]),
}


@pytest.mark.parametrize("what", MISUNDERSTOOD)
def test_what_is_not_understood(what):
    value, parts = MISUNDERSTOOD[what]
    with pytest.raises(ValueError) as error:
        PiToMeConfig.from_value(value)
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_reading_from_the_checkpoint_of_a_model(tmp_path, caplog):
    config = ViTConfig()
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' model without a `pitome` entry.*base_model_name_or_path"):
        PiToMeConfig.from_pretrained(tmp_path)
    config.pitome = PiToMeConfig(0.8, layers=[0]).to_pitome_dict()
    config.save_pretrained(tmp_path)
    assert PiToMeConfig.from_pretrained(tmp_path) == PiToMeConfig(0.8, layers=[0])
    config.pitome = {"ratio": 0.1}
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ratio=0.1 is out of range"):
        PiToMeConfig.from_pretrained(tmp_path)


def test_what_transformers_refuses_is_named():
    with pytest.raises(ValueError, match="transformers refuses {'dtype': 'evil'} in a PiToMeConfig"):
        PiToMeConfig(dtype="evil")


def test_configurations_in_a_configuration():
    from transformers import VisionTextDualEncoderConfig

    config = VisionTextDualEncoderConfig.from_vision_text_configs(CLIPVisionConfig(), BertConfig())
    config.pitome = PiToMeConfig(0.9)  # where an auto class puts the keyword
    assert dict(configurations(config)) == {
        "": config,
        "vision_config": config.vision_config,
        "text_config": config.text_config,
    }
