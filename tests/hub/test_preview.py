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

"""Settings that do not fit are refused before weights are looked for. The folders here have nothing but a config.json:
what is not refused ends in transformers' message that there are no weights."""

import json
import sys

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    CLIPModel,
    GPT2Config,
    LlavaNextConfig,
    SiglipVisionConfig,
    SwinConfig,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderModel,
    ViTForImageClassification,
    ViTModel,
    modeling_utils,
    pipeline,
)
from zoo import all_cases
from zoo.llava import grid_config
from zoo.vision_language import TEXT, VISION, clip_config
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig
from optimum_pitome.configuration.config import configurations
from optimum_pitome.hub import preview as preview_module
from optimum_pitome.hub.preview import preview


NO_WEIGHTS = "no file named model.safetensors"


@pytest.fixture
def weights_looked_for(monkeypatch):
    """How often transformers looked for weights."""
    calls = []
    original = modeling_utils._get_resolved_checkpoint_files
    monkeypatch.setattr(
        modeling_utils, "_get_resolved_checkpoint_files", lambda *a, **k: calls.append(k) or original(*a, **k)
    )
    return calls


def folder(path, config, **entries):
    config.save_pretrained(path)
    if entries:
        content = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**content, **entries}))
    return str(path)


#: Configuration, settings, and what the message says.
REFUSED = {
    "a layer that is not there": (vit_config, {"layers": [9]}, "the model has 4 layers, so 9 is out of range"),
    "ratios that do not fit": (vit_config, {"ratio": [0.9] * 3}, "ratio has 3 entries, but the model has 4 layers"),
    "margins that do not fit": (vit_config, {"margin": [0.1] * 3}, "margin has 3 entries"),
    "a part that is not there": (vit_config, {"text": 0.9}, "ViTModel has no part 'text'"),
    "a part of a composite": (clip_config, {"text": 0.9}, "The part 'text' of CLIPModel cannot merge|no part 'text'"),
    "no class token": (lambda: SiglipVisionConfig(**VISION), {"importance": 0.5}, "class token"),
    "no official code": (lambda: SiglipVisionConfig(**VISION), {"preset": "official"}, "released code has no"),
    "a host": (lambda: grid_config(LlavaNextConfig), {"unmerge": False}, "LlavaNext.* one feature per patch"),
    "windows": (
        lambda: SwinConfig(embed_dim=8, depths=[1], num_heads=[1], image_size=32, patch_size=4, window_size=4),
        0.9,
        "'swin' attends inside the windows.*near it, vit, dinov2",
    ),
    "a decoder": (lambda: GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9), 0.9, "'gpt2' is a causal decoder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_the_weights(what, tmp_path, weights_looked_for):
    make, settings, message = REFUSED[what]
    plain, with_entry = folder(tmp_path / "plain", make()), folder(tmp_path / "entry", make(), pitome=settings)
    with torch.device("meta"):
        model_class = type(AutoModel.from_config(make()))
    for loader in (AutoModel, model_class):
        for load in (
            lambda loader=loader: loader.from_pretrained(plain, pitome=settings),
            lambda loader=loader: loader.from_pretrained(plain, pitome=settings, config=make()),
            lambda loader=loader: loader.from_pretrained(with_entry),
        ):
            with pytest.raises(ValueError, match=message):
                load()
        assert not weights_looked_for
        for pitome in (None, False):
            with pytest.raises(OSError, match=NO_WEIGHTS):
                loader.from_pretrained(with_entry, pitome=pitome)
        assert len(weights_looked_for) == 2
        weights_looked_for.clear()


def test_through_a_pipeline(tmp_path, weights_looked_for):
    path = folder(tmp_path, vit_config())
    with pytest.raises(ValueError, match="the model has 4 layers, so 9 is out of range"):
        pipeline("image-classification", model=path, model_kwargs={"pitome": {"layers": [9]}})
    assert not weights_looked_for


def test_what_else_is_passed_counts(tmp_path):
    path = folder(tmp_path, vit_config())
    with pytest.raises(OSError, match=NO_WEIGHTS):
        ViTModel.from_pretrained(path, num_hidden_layers=10, add_pooling_layer=False, pitome={"layers": [9]})
    with pytest.raises(ValueError, match="the model has 2 layers, so 3 is out of range"):
        ViTModel.from_pretrained(path, num_hidden_layers=2, add_pooling_layer=False, pitome={"layers": [3]})


@pytest.mark.parametrize("composer", ["dual encoder", "encoder-decoder"])
def test_through_a_composer(composer, tmp_path, weights_looked_for):
    compose = {
        "dual encoder": VisionTextDualEncoderModel.from_vision_text_pretrained,
        "encoder-decoder": VisionEncoderDecoderModel.from_encoder_decoder_pretrained,
    }[composer]
    vision, text = folder(tmp_path / "vision", vit_config()), folder(tmp_path / "text", BertConfig(**TEXT))
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="the model has 4 layers, so 9 is out of range"):
        compose(vision, text, pitome={"layers": [9]})
    assert not weights_looked_for and torch.equal(torch.get_rng_state(), state)
    with pytest.raises(OSError, match=NO_WEIGHTS):
        compose(vision, text, pitome=0.9)


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_every_model_can_be_previewed(case):
    """The same modules as the model itself, no memory, the same random numbers afterwards."""
    config = case.config()
    state, before = torch.get_rng_state(), config.to_json_string()
    found = preview(case.model_class, config, (), {"pitome": 1, "device_map": "auto"})
    assert torch.equal(torch.get_rng_state(), state) and config.to_json_string() == before
    model = case.build()
    # By name, since torch makes a class anew for every module whose weights are parametrised.
    classes = [[type(module).__qualname__ for module in of.modules()] for of in (found, model)]
    assert classes[0] == classes[1]
    assert all(parameter.is_meta for parameter in found.parameters())
    assert {n: p.shape for n, p in found.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


def test_dense_loads_preview_nothing(tmp_path, monkeypatch):
    ViTForImageClassification(vit_config()).save_pretrained(tmp_path)
    monkeypatch.setattr(preview_module, "preview", lambda *args: pytest.fail("a dense model was previewed"))
    for pitome in ({}, {"pitome": None}, {"pitome": False}):
        AutoModelForImageClassification.from_pretrained(tmp_path, **pitome)
        ViTModel.from_pretrained(tmp_path, **pitome)


def test_what_cannot_be_previewed_is_loaded(tmp_path, monkeypatch):
    """What has no preview is refused after loading."""

    class Stubborn(ViTModel):
        def __init__(self, config, **kwargs):
            super().__init__(config, **kwargs)
            if next(self.parameters()).is_meta and not seen:
                seen.append(self)
                raise RuntimeError("not on meta")

    seen = []
    ViTModel(vit_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="9 is out of range"):
        Stubborn.from_pretrained(tmp_path, pitome={"layers": [9]})
    assert seen
    seen.clear()
    assert PiToMeConfig.from_value(Stubborn.from_pretrained(tmp_path, pitome=0.9).config.pitome).ratio == 0.9


@pytest.mark.parametrize("inside", [False, True], ids=["model", "part"])
def test_no_code_of_a_repository_is_run(inside, tmp_path):
    """Remote code does not run where it is not trusted, nor more often than without `pitome`."""
    config = clip_config() if inside else vit_config()
    (tmp_path / "modeling_evil.py").write_text("import sys\nsys.modules['evil_was_here'] = sys\nclass Evil: pass\n")
    content = json.loads(config.to_json_string())
    owner = content["vision_config"] if inside else content
    owner["auto_map"] = {"AutoModel": "modeling_evil.Evil", "AutoModelForImageClassification": "modeling_evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    model_class = CLIPModel if inside else ViTForImageClassification
    with pytest.raises((OSError, ValueError), match=NO_WEIGHTS if inside else "9 is out of range"):
        model_class.from_pretrained(tmp_path, pitome={"layers": [9]})
    with pytest.raises((OSError, ValueError), match=NO_WEIGHTS if inside else "9 is out of range"):
        AutoModel.from_pretrained(tmp_path, pitome={"layers": [9]})
    assert "evil_was_here" not in sys.modules
    if inside:
        read = CLIPModel.config_class.from_pretrained(tmp_path)
        assert [part.auto_map for _, part in configurations(read) if hasattr(part, "auto_map")]
        assert preview(CLIPModel, read, (), {}) is None


def test_numbers_that_a_model_is_built_with_stay_real():
    class Model(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
            self.linear = torch.nn.Linear(2, 2)
            torch.nn.init.normal_(self.linear.weight)
            self.norm = torch.nn.LayerNorm(2)

    model = preview(Model, vit_config(), (), {})
    assert model.rates == [0.0, 0.5, 1.0] and model.linear.weight.is_meta and model.norm.weight.shape == (2,)
