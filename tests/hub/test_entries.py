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

"""Which settings count, over every composite model: the keyword, the model's own entry, the entries of its parts."""

import json

import pytest
import torch
from transformers import (
    AutoModel,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    VisionEncoderDecoderModel,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)
from zoo import all_cases, outputs_of
from zoo.llava import llava_config
from zoo.vision_language import VISION, clip_config, dual_encoder_config, image_and_text

from optimum_pitome import PiToMeConfig, UnsupportedArchitectureError, apply_pitome, remove_pitome
from optimum_pitome.configuration.checks import FORMAT_VERSION
from optimum_pitome.configuration.config import configurations
from optimum_pitome.modeling.parts import select_encoders
from optimum_pitome.modeling.rewrite import rewritten_encoders


COMPOSITES = [case for case in all_cases() if len(list(configurations(case.config()))) > 1]


def entries(config):
    return {name: part.pitome for name, part in configurations(config) if hasattr(part, "pitome")}


def outputs(case, model):
    torch.manual_seed(1)
    with torch.no_grad():
        return outputs_of(model.eval()(**case.inputs(2)))


def reload(case, model, folder, **kwargs):
    model.save_pretrained(folder)
    # float16 and so on are not the matter here, and eager is what the case was built with.
    return case.model_class.from_pretrained(folder, attn_implementation=model.config._attn_implementation, **kwargs)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, output in first.items():
        # Backbones of depth models, and Gemma 2 in transformers 5.13, take the implementation of attention from
        # elsewhere when they are loaded.
        torch.testing.assert_close(output, second[name], atol=1e-4, rtol=1e-4)


def test_there_are_many_composites():
    names = {case.id for case in COMPOSITES}
    assert {
        "CLIPModel",
        "SiglipModel",
        "BlipModel",
        "VisionTextDualEncoderModel",
        "VisionEncoderDecoderModel",
    } <= names
    assert {"LlavaForConditionalGeneration", "Blip2ForConditionalGeneration"} <= names and len(names) >= 15


@pytest.mark.parametrize("how", ["whole", "part"])
@pytest.mark.parametrize("case", COMPOSITES, ids=lambda case: case.id)
def test_a_composite_reloads_as_it_was_saved(case, how, tmp_path):
    """Rewritten as a whole, or put together from a tower that was rewritten by itself."""
    model = case.build()
    dense = outputs(case, model)
    if how == "whole":
        apply_pitome(model, 0.8)
    else:
        for encoder, _, _ in select_encoders(list(model.modules()), PiToMeConfig(0.8)):
            apply_pitome(encoder, 0.8)
    found = entries(model.config)
    assert ("" in found) == (how == "whole") and found
    merged = outputs(case, model)
    again = reload(case, model, tmp_path)
    assert len(rewritten_encoders(again)) == len(rewritten_encoders(model)) > 0
    assert entries(again.config) == found
    assert_same(outputs(case, again), merged)
    assert any(merged[name].shape != dense[name].shape or not torch.equal(merged[name], dense[name]) for name in dense)
    # The second time, from what was loaded; and back to the dense model, for good.
    assert entries(reload(case, again, tmp_path / "again").config) == found
    for refused in (False, None):
        without = reload(case, model, tmp_path, pitome=refused)
        assert rewritten_encoders(without) == [] and entries(without.config) == {}
        assert_same(outputs(case, without), dense)
    assert entries(remove_pitome(again).config) == {} and rewritten_encoders(again) == []


@pytest.mark.parametrize("case", COMPOSITES, ids=lambda case: case.id)
def test_the_whole_goes_before_its_parts(case, tmp_path):
    model = case.build()
    for encoder, _, _ in select_encoders(list(model.modules()), PiToMeConfig(0.8)):
        apply_pitome(encoder, 0.6)
    expected = case.build()
    expected.load_state_dict(model.state_dict())
    expected = outputs(case, apply_pitome(expected, 0.8))
    by_keyword = reload(case, model, tmp_path, pitome=0.8)
    assert_same(outputs(case, by_keyword), expected)
    assert list(entries(by_keyword.config)) == [""]  # one entry, so that there is one truth
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "pitome": {"ratio": 0.8}}))
    by_entry = case.model_class.from_pretrained(tmp_path, attn_implementation=model.config._attn_implementation)
    assert_same(outputs(case, by_entry), expected)
    assert list(entries(by_entry.config)) == [""]


TOWERS = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**VISION, projection_dim=16)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**VISION)),
    "vit": lambda: ViTModel(ViTConfig(**VISION)),
}


def different(module):
    """Weights with which no two tokens look alike."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


@pytest.mark.parametrize("tower", TOWERS)
def test_a_dual_encoder_from_a_rewritten_tower(tower, tmp_path):
    text = BertModel(dual_encoder_config().text_config)
    model = VisionTextDualEncoderModel(
        vision_model=apply_pitome(different(TOWERS[tower]()), 0.9), text_model=different(text)
    ).eval()
    model.save_pretrained(tmp_path)
    again = VisionTextDualEncoderModel.from_pretrained(tmp_path)
    assert len(rewritten_encoders(again)) == 1
    inputs = image_and_text(2)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits_per_image, model(**inputs).logits_per_image)
        dense = VisionTextDualEncoderModel.from_pretrained(tmp_path, pitome=False)
        assert not torch.equal(dense(**inputs).logits_per_image, model(**inputs).logits_per_image)
    from_config = AutoModel.from_config(again.config)
    assert len(rewritten_encoders(from_config)) == 1


@pytest.mark.parametrize("composer", ["dual encoder", "encoder-decoder"])
def test_a_composite_of_rewritten_checkpoints(composer, tmp_path):
    apply_pitome(different(TOWERS["vit"]()), 0.9).save_pretrained(tmp_path / "vision")
    BertModel(dual_encoder_config().text_config).save_pretrained(tmp_path / "text")
    folders = (str(tmp_path / "vision"), str(tmp_path / "text"))
    model_class, compose = {
        "dual encoder": (VisionTextDualEncoderModel, VisionTextDualEncoderModel.from_vision_text_pretrained),
        "encoder-decoder": (VisionEncoderDecoderModel, VisionEncoderDecoderModel.from_encoder_decoder_pretrained),
    }[composer]
    model = compose(*folders)
    assert len(rewritten_encoders(model)) == 1 and "" not in entries(model.config)
    model.save_pretrained(tmp_path / "both")
    again = model_class.from_pretrained(tmp_path / "both")
    assert entries(again.config) == entries(model.config) and len(rewritten_encoders(again)) == 1
    assert rewritten_encoders(compose(*folders, pitome=False)) == []
    assert entries(compose(*folders, pitome=0.8).config)[""]["ratio"] == 0.8
    # What the composer was told goes before an entry that nobody could follow.
    config = json.loads((tmp_path / "vision" / "config.json").read_text())
    (tmp_path / "vision" / "config.json").write_text(json.dumps({**config, "pitome": {"ratio": 0.1}}))
    with pytest.raises(ValueError, match="ratio=0.1 is out of range"):
        compose(*folders)
    assert rewritten_encoders(compose(*folders, pitome=False)) == []
    assert len(rewritten_encoders(compose(*folders, pitome=0.8))) == 1


INVALID = [{"ratio": 0.1}, "0.9", {"layers": [9]}]


@pytest.mark.parametrize("entry", INVALID, ids=str)
@pytest.mark.parametrize("make", [clip_config, llava_config, dual_encoder_config], ids=lambda make: make.__name__)
def test_an_invalid_entry_of_a_part(make, entry, tmp_path):
    config = make()
    model = AutoModel.from_config(config)
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["vision_config"]["pitome"] = entry
    (tmp_path / "config.json").write_text(json.dumps(content))
    for model_class in (AutoModel, type(model)):
        with pytest.raises(ValueError, match="entry in the configuration of the model's part 'vision_.*pitome=False"):
            model_class.from_pretrained(tmp_path)
        assert rewritten_encoders(model_class.from_pretrained(tmp_path, pitome=False)) == []
        assert entries(model_class.from_pretrained(tmp_path, pitome=False).config) == {}
        assert len(rewritten_encoders(model_class.from_pretrained(tmp_path, pitome=0.9))) == 1
    config.vision_config.pitome = entry
    with pytest.raises(ValueError, match="entry in the configuration of the model's part 'vision_"):
        AutoModel.from_config(config)
    assert entries(config) == {"vision_config": entry}  # it is the caller's
    assert rewritten_encoders(AutoModel.from_config(config, pitome=False)) == []


def test_an_entry_that_says_no(tmp_path):
    model = AutoModel.from_config(clip_config())
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for own in (None, False):
        content |= {"pitome": own, "vision_config": {**content["vision_config"], "pitome": {"ratio": 0.9}}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert rewritten_encoders(AutoModel.from_pretrained(tmp_path)) == []


@pytest.mark.parametrize("make", [clip_config, llava_config, dual_encoder_config], ids=lambda make: make.__name__)
def test_constructors_build_the_dense_model(make):
    config = make()
    config.vision_config.pitome = {"ratio": 0.9}
    model_class = type(AutoModel.from_config(make()))
    assert rewritten_encoders(model_class(config)) == []
    assert len(rewritten_encoders(model_class._from_config(make_with(make, {"ratio": 0.9})))) == 1


def make_with(make, entry):
    config = make()
    config.vision_config.pitome = entry
    return config


def test_a_tower_that_is_asked_for_by_name_inside_a_constructor():
    """The keyword counts wherever it is written."""

    class Classifier(torch.nn.Module):
        def __init__(self, config, **kwargs):
            super().__init__()
            self.tower = AutoModel.from_config(config, **kwargs)

    config = CLIPVisionConfig(**VISION)
    assert len(rewritten_encoders(Classifier(config, pitome=0.9))) == 1
    config.pitome = {"ratio": 0.9}
    assert len(rewritten_encoders(Classifier(config))) == 1  # not a model of transformers, which somebody would load


def test_llava_inside_and_out(tmp_path):
    """A tower's own entry merges inside the tower; the whole model's entry shortens the prompt, too."""
    model = LlavaForConditionalGeneration(llava_config()).eval()
    apply_pitome(model.model.vision_tower, 0.9).config.pitome.setdefault("unmerge", True)
    model.save_pretrained(tmp_path)
    again = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert entries(again.config) == {
        "vision_config": {"ratio": 0.9, "unmerge": True, "format_version": FORMAT_VERSION}
    }
    assert rewritten_encoders(again)[0].pitome.unmerge
    whole = LlavaForConditionalGeneration.from_pretrained(tmp_path, pitome=0.9)
    assert not rewritten_encoders(whole)[0].pitome.unmerge


def test_where_the_family_is_not_registered(tmp_path):
    """The message names both remedies."""
    GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10, pitome={"ratio": 0.9}).save_pretrained(tmp_path)
    dense = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    torch.save(dense.state_dict(), tmp_path / "pytorch_model.bin")
    message = "a module of yours registers the architecture, import it before loading. pitome=False loads the dense"
    for load in (AutoModel.from_pretrained, GPT2Model.from_pretrained):
        with pytest.raises(UnsupportedArchitectureError, match=message):
            load(tmp_path)
    with pytest.raises(UnsupportedArchitectureError) as error:
        AutoModel.from_config(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10), pitome=0.9)
    assert "pitome=False" not in str(error.value)  # who asks for it knows
    assert rewritten_encoders(AutoModel.from_pretrained(tmp_path, pitome=False)) == []


def test_a_part_that_nobody_can_rewrite_is_no_dense_model(tmp_path):
    """It says that it merges, and the module that registers its family may only be missing."""
    sizes = {"embed_dim": 8, "depths": [1], "num_heads": [1], "image_size": 32, "patch_size": 4, "window_size": 4}
    decoder = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20, add_cross_attention=True)
    model = VisionEncoderDecoderModel(encoder=SwinModel(SwinConfig(**sizes)), decoder=GPT2LMHeadModel(decoder))
    model.config.encoder.pitome = {"ratio": 0.8}
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match="model's part 'encoder'.* import it before loading"):
        VisionEncoderDecoderModel.from_pretrained(tmp_path)
