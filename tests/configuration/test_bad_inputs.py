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

"""What people get wrong: each mistake has a message of its own that says what was wrong, what is accepted and what to
do, and leaves the model as it was."""

import json
from dataclasses import replace

import pytest
import torch
from modeling.helpers import assert_same_state, build, difference, images, run, snapshot
from torch import nn
from transformers import GPT2Config, GPT2Model

from optimum_pitome import (
    PiToMeConfig,
    apply_pitome,
    export_pitome,
    pitome_summary,
    register_algorithm,
    register_architecture,
    remove_pitome,
    visualize,
)
from optimum_pitome.configuration.config import FORMAT_VERSION
from optimum_pitome.modeling import registry
from optimum_pitome.modeling.registry import find_architecture


#: What is passed as `pitome=`, and what the message must contain: the value, what is accepted, the remedy.
BAD_SETTINGS = {
    "ratio above 1": (1.5, ["ratio=1.5", "[0.5, 1]", "one per layer"]),
    "a budget as ratio": (1.35, ["ratio=1.35", "[0.5, 1]", "Did you mean {'flops_ratio': 1.35}"]),
    "ratio that removes too much": (0.3, ["ratio=0.3", "[0.5, 1]", "at most half", "fraction that it keeps"]),
    "ratio as a percentage": (90, ["ratio=90", "[0.5, 1]", "Did you mean 0.9, a fraction?"]),
    "ratio not a number": (float("nan"), ["ratio=nan", "[0.5, 1]"]),
    "ratio as text": ({"ratio": "0.9"}, ["ratio='0.9'", "a number in [0.5, 1]"]),
    "ratio as a truth value": ({"ratio": True}, ["ratio=True", "a number in [0.5, 1]"]),
    "no ratios": ({"ratio": []}, ["ratio=[]", "empty", "one per layer"]),
    "one bad ratio of several": ({"ratio": [0.9, 0.9, 0.2, 0.9]}, ["ratio[2]=0.2", "[0.5, 1]", "at most half"]),
    "too few ratios": ({"ratio": [0.9, 0.9, 0.9]}, ["ratio has 3 entries", "4 layers", "single number"]),
    "ratios that fit neither": (
        {"ratio": [0.9] * 3, "layers": [0, 1]},
        ["ratio has 3 entries", "4 layers", "2 of them merge", "one ratio per layer"],
    ),
    "a layer that is not there": ({"layers": [0, 7]}, ["[0, 7]", "4 layers", "7 is out of range", "-4 to 3"]),
    "a layer twice": ({"layers": [1, 1]}, ["layers=[1, 1]", "twice"]),
    "a layer twice, counted from both ends": ({"layers": [3, -1]}, ["layers=[3, -1]", "4-layer", "twice"]),
    "layers as text": ({"layers": "all"}, ["layers='all'", "[0, 1, 2]", "None for the default"]),
    "no layers": ({"layers": []}, ["layers=[]", "[0, 1, 2]"]),
    "a broken layer": ({"layers": [0.5]}, ["layers=[0.5]", "list of layer indices"]),
    "algorithm misspelt": ({"algorithm": "pitmoe"}, ["'pitmoe'", "'tome'", "Did you mean 'pitome'?"]),
    "energy misspelt": ({"energy": "gausian"}, ["'gausian'", "'nearest'", "Did you mean 'gaussian'?"]),
    "metric of another kind": ({"metric": "cosine"}, ["metric='cosine'", "'keys'", "'hidden_states'"]),
    "margin 1": ({"margin": 1.0}, ["margin=1", "[-1, 1)"]),
    "margin as text": ({"margin": "high"}, ["margin='high'", "[-1, 1)"]),
    "margins that do not fit": ({"margin": [0.1, 0.2]}, ["margin has 2 entries", "4 layers", "single number"]),
    "negative min_tokens": ({"min_tokens": -1}, ["min_tokens=-1", "at least 0"]),
    "half a token": ({"min_tokens": 2.5}, ["min_tokens=2.5", "whole number"]),
    "a token by its name": ({"protect_token_ids": ["[MASK]"]}, ["['[MASK]']", "whole numbers", "mask_token_id"]),
    "one token id": ({"protect_token_ids": 103}, ["protect_token_ids=103", "a list of token ids"]),
    "a token id below 0": ({"protect_token_ids": [-1]}, ["[-1]", "at least 0"]),
    "a token id twice": ({"protect_token_ids": [4, 4]}, ["[4, 4]", "twice"]),
    "token ids for pictures": ({"protect_token_ids": [4]}, ["[4]", "reads no token ids", "Leave the field out"]),
    "negative alpha": ({"alpha": -1}, ["alpha=-1", "[0, inf)"]),
    "a truth value as text": ({"proportional_attention": "yes"}, ["='yes'", "True, False", "None"]),
    "a truth value as a number": ({"unmerge": 1}, ["unmerge=1", "True, False"]),
    "an unknown preset": ({"preset": "official_code"}, ["'official_code'", "Did you mean 'official'?"]),
    "a field misspelt": ({"ration": 0.9}, ["no field 'ration'", "Did you mean 'ratio'?", "proportional_attention"]),
    "neither a field nor a part": ({"xyz": 1}, ["no part 'xyz'", "'vision'", "a setting was meant: ratio, layers"]),
    "a field of nothing": ({"ratio": 0.9, "xyz": "a"}, ["no field 'xyz'", "Fields: ratio, layers"]),
    "a newer format": ({"format_version": "2.0"}, ["format 2.0", "Upgrade optimum_pitome", "pip install -U"]),
    "a version that is none": ({"format_version": "new"}, ["format_version='new'", "two numbers", FORMAT_VERSION]),
    "a base model that is no name": ({"base_model_name_or_path": 3}, ["=3", "Hub id or a local path"]),
    "parts as a list": ({"parts": ["vision"]}, ["parts=['vision']", "dict from part to settings"]),
    "a bad setting of a part": ({"parts": {"vision": 1.5}}, ["parts['vision']", "ratio=1.5", "[0.5, 1]"]),
    "a part that is not there": ({"parts": {"text": 0.9}}, ["text", "vision"]),
    "a part misspelt": ({"vison": 0.9}, ["no part 'vison'", "Did you mean 'vision'?"]),
    "the beginning of a field": (
        {"base_model": "me/vit"},
        ["'base_model'", "Did you mean 'base_model_name_or_path'?"],
    ),
    "text": ("0.9", ["pitome='0.9'", "pitome=0.9", "PiToMeConfig"]),
    "a list": ([0.9, 0.8], ["pitome=[0.9, 0.8]", "{'ratio': 0.9}"]),
    "a truth value": (True, ["pitome=True", "False for the dense model"]),
}


@pytest.fixture(scope="module")
def model():
    return build("ViTForImageClassification")


@pytest.mark.parametrize("rewritten", [False, True], ids=["dense", "rewritten"])
@pytest.mark.parametrize("what", BAD_SETTINGS)
def test_bad_settings(what, rewritten, model):
    settings, parts = BAD_SETTINGS[what]
    apply_pitome(model, 0.8 if rewritten else False)
    before, output = snapshot(model), run(model)
    with pytest.raises(ValueError) as error:
        apply_pitome(model, settings)
    for part in parts:
        assert part in str(error.value), str(error.value)
    assert_same_state(model, before)
    assert difference(run(model), output) == 0.0


def test_there_are_many_kinds():
    assert len(BAD_SETTINGS) + len(BAD_MASKS) > 40


def test_a_newer_minor_version_is_read_with_a_warning(monkeypatch):
    from optimum_pitome.configuration import config as configuration

    messages = []
    monkeypatch.setattr(configuration.logger, "warning", messages.append)
    config = PiToMeConfig(0.8, format_version="1.99", shiny=True)
    assert config.ratio == 0.8 and config.format_version == FORMAT_VERSION
    assert len(messages) == 1 and "1.99" in messages[0] and "shiny" in messages[0] and "ignored" in messages[0]


def test_a_configuration_is_data():
    """Names of files, classes and code in a configuration from a Hub are refused or ignored, never imported."""
    config = json.loads(PiToMeConfig(0.8).to_json_string())
    with pytest.raises(ValueError, match="no field 'auto_map'"):
        PiToMeConfig.from_dict({**config, "auto_map": {"AutoConfig": "evil.py--Evil"}})
    with pytest.raises(ValueError, match="algorithm='evil.match' is not known"):
        PiToMeConfig.from_dict({**config, "algorithm": "evil.match"})


@pytest.mark.parametrize("function", [apply_pitome, remove_pitome, pitome_summary, export_pitome, visualize])
def test_what_is_not_a_model(function):
    arguments = {apply_pitome: [0.9], export_pitome: ["folder"], visualize: [{}]}.get(function, [])
    message = rf"^{function.__name__} takes a model, got 'google/vit'.*from_pretrained\(\.\.\., pitome=0\.9\)"
    with pytest.raises(TypeError, match=message):
        function("google/vit", *arguments)


def test_a_model_that_cannot_be_rewritten():
    gpt2 = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    with pytest.raises(ValueError, match="GPT2Model.*Supported model types:.*vit.*register_architecture"):
        apply_pitome(gpt2, 0.9)


def test_the_released_code_has_no_such_architecture(monkeypatch, model):
    before = snapshot(apply_pitome(model, False))
    without = replace(find_architecture(model.vit), official=None)
    monkeypatch.setitem(registry._ARCHITECTURES, type(model.vit), without)
    with pytest.raises(ValueError, match="released code has no ViTModel.*PiToMeConfig.paper"):
        apply_pitome(model, PiToMeConfig.official())
    assert_same_state(model, before)


#: Masks for two samples of 65 tokens, and what the message must contain.
BAD_MASKS = {
    "another length": (torch.ones(2, 64), ["2 samples of 64 tokens", "2 samples of 65 tokens", "CLS included"]),
    "another batch": (torch.ones(3, 65), ["3 samples of 65 tokens", "2 samples of 65 tokens"]),
    "one dimension": (torch.ones(65), ["shape (65,)", "(batch, tokens)", "1 for a real token"]),
    "five dimensions": (torch.ones(1, 2, 1, 65, 65), ["shape (1, 2, 1, 65, 65)", "(batch, 1 or heads"]),
    "a list": ([[1] * 65] * 2, ["attention_mask is list", "(batch, tokens)", "boolean or additive"]),
}


@pytest.mark.parametrize("what", BAD_MASKS)
def test_bad_masks(what):
    mask, parts = BAD_MASKS[what]
    model = apply_pitome(build(), 0.8)
    before, output = snapshot(model), run(model)
    with pytest.raises(ValueError) as error:
        run(model, attention_mask=mask)
    for part in parts:
        assert part in str(error.value), str(error.value)
    assert_same_state(model, before)
    assert difference(run(model), output) == 0.0


def test_names_that_are_taken():
    with pytest.raises(ValueError, match="'tome' is already registered"):
        register_algorithm("tome")(lambda features, spec, masks: None)
    architecture = find_architecture(build())
    with pytest.raises(ValueError, match="ViTModel is already registered"):
        register_architecture(architecture.encoder_class, architecture.layer_class)


def test_wrapped_layers():
    model = build()
    model.layers[0] = nn.Sequential(model.layers[0])
    with pytest.raises(ValueError, match="Sequential, not the ViTLayer.*before the layers are wrapped"):
        apply_pitome(model, 0.9)


def test_the_outputs_of_a_bad_image_are_the_models_own():
    """Errors of the model itself pass through, and the next forward is right."""
    model = apply_pitome(build(), 0.8)
    output = run(model)
    with pytest.raises(ValueError, match="doesn't match model"):
        model(torch.randn(1, 3, 16, 16))
    assert difference(run(model, images()), output) == 0.0
