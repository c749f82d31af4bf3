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

"""A refusal says where its settings came from, and which part of a model they are for."""

import json

import pytest
from transformers import AutoConfig, AutoModel, CLIPModel, ViTConfig, ViTModel
from zoo.vision_language import clip_config
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig, apply_pitome


ENTRY, PASSED = (
    "are the `pitome` entry in the model's configuration",
    "are those that were passed, not the `pitome` entry",
)
RECIPE = r"are those in the config.json of '.*recipe'"
#: Settings that no model takes, and that this one does not.
WRONG = [{"ratio": 0.3}, {"layers": [40]}]


def write(folder, **content):
    """A folder with a config.json, and without weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def checkpoint(folder, pitome):
    return write(folder, **vit_config().to_dict(), pitome=pitome)


def refused(load, *args, **kwargs):
    with pytest.raises(ValueError) as found:
        load(*args, **kwargs)
    return str(found.value)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_keyword_and_the_entry(wrong, tmp_path):
    """Both are refused before the weights are looked for, which are not there."""
    folder = checkpoint(tmp_path / "checkpoint", {"ratio": 0.9})
    said = refused(AutoModel.from_pretrained, folder, pitome=wrong)
    assert PASSED in said and ENTRY not in said
    assert ENTRY not in refused(ViTModel.from_pretrained, folder, pitome=wrong)
    folder = checkpoint(tmp_path / "checkpoint", wrong)
    for model_class in (AutoModel, ViTModel):
        said = refused(model_class.from_pretrained, folder)
        assert ENTRY in said and said.endswith("pitome=False loads the dense model.)")
    (folder / "config.json").write_text(json.dumps(vit_config().to_dict()))
    assert "These settings" not in refused(
        AutoModel.from_pretrained, folder, pitome=wrong
    )  # nothing else could be meant


def test_the_auto_classes_leave_the_keyword_to_the_model(tmp_path):
    folder = checkpoint(tmp_path, {"ratio": 0.9})
    config, unused = AutoConfig.from_pretrained(folder, pitome=0.8, return_unused_kwargs=True)
    assert config.pitome == {"ratio": 0.9} and unused == {"pitome": 0.8}
    assert AutoConfig.from_pretrained(folder, pitome=0.8).pitome == 0.8  # who asks for no model changes the entry
    assert ViTConfig.from_pretrained(folder, return_unused_kwargs=True)[1] == {}


def test_the_folder_of_a_recipe_as_settings(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint", None)
    PiToMeConfig(0.8, base_model_name_or_path=str(folder)).save_pretrained(tmp_path / "tuned")
    for name in (tmp_path / "tuned", str(tmp_path / "tuned")):
        said = refused(AutoModel.from_pretrained, folder, pitome=name)
        assert f"'{tmp_path / 'tuned'}' is the folder of a recipe" in said
    assert "folder of a recipe" not in refused(AutoModel.from_pretrained, folder, pitome=str(folder))
    ViTModel(vit_config()).save_pretrained(folder)
    model = AutoModel.from_pretrained(folder, pitome=PiToMeConfig.from_pretrained(tmp_path / "tuned"))
    assert model.config.pitome["ratio"] == 0.8


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("model_class", [AutoModel, ViTModel])
def test_a_recipe(wrong, model_class, tmp_path, monkeypatch):
    base = write(tmp_path / "base", **vit_config().to_dict())
    recipe = write(tmp_path / "recipe", model_type="pitome", base_model_name_or_path=str(base), **wrong)
    with pytest.raises(ValueError, match=rf"{RECIPE}\."):
        model_class.from_pretrained(recipe)
    with pytest.raises(ValueError, match=rf"{RECIPE}\."):
        AutoModel.from_config(AutoConfig.from_pretrained(recipe))
    with pytest.raises(ValueError, match=rf"{RECIPE}\."):
        apply_pitome(ViTModel(vit_config()), PiToMeConfig.from_pretrained(recipe))
    good = write(tmp_path / "recipe", model_type="pitome", base_model_name_or_path=str(base))
    with pytest.raises(ValueError, match=f"{RECIPE}, but for what was passed: {next(iter(wrong))}."):
        model_class.from_pretrained(good, **wrong)
    assert "These settings" not in refused(model_class.from_pretrained, good, pitome=wrong)


def test_what_was_read_and_then_changed_is_nobody_elses(tmp_path):
    folder = checkpoint(tmp_path, {"ratio": 0.9, "layers": [40]})
    config = PiToMeConfig.from_pretrained(folder)
    assert config.origin == f"those in the config.json of {str(folder)!r}"
    assert config.origin not in str(config.to_dict()) and PiToMeConfig(ratio=0.9).origin == ""
    config.layers = [41]
    assert config.origin == "" and "These settings" not in refused(apply_pitome, ViTModel(vit_config()), config)
    checkpoint(tmp_path, {"ratio": 0.3})
    with pytest.raises(ValueError, match=r"are the `pitome` entry in the config.json of '"):
        PiToMeConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"parts": {"vision": {"ratio": 0.3}}},
        {"parts": {"vision": {"layers": [40]}}},
        {"parts": {"vision": {"ratio": [0.9]}}},
        {"parts": {"vision": {"flops_ratio": 90}}},
        {"parts": {"vision": {"profile": "late"}}, "ratio": 0.9},
        {"parts": {"vision": 0.9}, "layers": [40]},
    ],
    ids=str,
)
def test_a_part(settings, tmp_path):
    assert refused(apply_pitome, CLIPModel(clip_config()), settings).startswith("parts['vision']: ")
    base = write(tmp_path / "base", **clip_config().to_dict())
    recipe = write(tmp_path / "recipe", model_type="pitome", base_model_name_or_path=str(base), **settings)
    with pytest.raises(ValueError, match=rf"^parts\['vision'\]: .*{RECIPE}"):
        AutoModel.from_pretrained(recipe)


def test_a_part_that_reads_no_picture_of_that_size():
    with pytest.raises(ValueError, match=r"\(the part 'vision'\) makes no patch of so small a picture"):
        apply_pitome(CLIPModel(clip_config()), {"parts": {"vision": {"ratio": 0.9, "image_size": 2}}})
