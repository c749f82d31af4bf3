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

"""Models around an encoder: what is put on them and taken off again, and which can read a short sequence."""

import importlib

import pytest
import torch
import transformers
from modeling.helpers import CASES, assert_same_state, build, snapshot
from torch import nn
from transformers import BertConfig, BertModel, Gemma3ForConditionalGeneration, SwinConfig, ViTConfig, ViTModel
from transformers.models.vit.modeling_vit import ViTPreTrainedModel
from zoo import outputs_of
from zoo.text import SIZES as TEXT
from zoo.vit import SIZES as VISION

from optimum_pitome import PiToMeConfig, UnsupportedArchitectureError, apply_pitome, remove_pitome
from optimum_pitome.modeling import hosts
from optimum_pitome.modeling.hosts import Host, adapt_architectures, find_hosts, register_host, remove_hooks
from optimum_pitome.modeling.rewrite import rewritten_encoders


SHORT = PiToMeConfig(ratio=0.8, unmerge=False)
REFUSED = [name for name, case in CASES.items() if case.reads_every_token]
#: The text models alone are all alike; tests/families/test_text.py has them.
SHORTENED = [name for name, case in CASES.items() if name not in REFUSED and case.config.__module__ != "zoo.text"]
HOSTS = [
    name
    for name in ("BlipForImageTextRetrieval", "Blip2ForConditionalGeneration", "LlavaForConditionalGeneration")
    if name in CASES
]


@pytest.mark.parametrize("name", HOSTS)
def test_hooks_are_put_on_once_and_all_taken_off(name):
    model, calls = build(name), []
    for module in model.modules():  # somebody's own stay
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        module.register_forward_hook(lambda *_: calls.append(2), with_kwargs=False)
    before = snapshot(model)
    once = snapshot(apply_pitome(model, 0.8))
    twice = snapshot(apply_pitome(model, 0.8))
    for key, value in once.items():
        if isinstance(value, dict) and "hooks" in key[1]:
            assert len(twice[key]) == len(value), key
    assert any(len(once[key]) > len(before[key]) for key in before if "hooks" in key[1] and before[key])
    assert_same_state(remove_pitome(model), before)


def test_a_class_has_one_host(monkeypatch):
    monkeypatch.setattr(hosts, "_HOSTS", {})

    class Model(nn.Linear):
        pass

    class Derived(Model):
        pass

    host = register_host(Host(Model, lambda model: None, lambda model: None))
    with pytest.raises(ValueError, match="Model is already registered"):
        register_host(host)
    tree = nn.Sequential(nn.Linear(1, 1), Derived(1, 1), nn.Sequential(Model(1, 1)))
    assert find_hosts(tree.modules()) == [(tree[1], host), (tree[2][0], host)]


def test_a_host_adapts_the_encoders_in_one_of_its_parts(monkeypatch):
    monkeypatch.setattr(hosts, "_HOSTS", {})
    inside, outside = nn.Linear(1, 1), nn.Linear(1, 1)
    model = nn.ModuleDict({"vision": nn.Sequential(inside), "text": outside})
    other = nn.Sequential(model)
    encoders = [(inside, "vision", 1), (outside, "text", 2)]
    assert adapt_architectures([], find_hosts(other.modules()), encoders) == encoders
    register_host(Host(nn.Sequential, None, None))  # one that adapts nothing
    register_host(Host(nn.ModuleDict, None, None, lambda model, entry, config: f"{entry} {config}", "vision"))
    assert adapt_architectures([], find_hosts(other.modules()), encoders) == [
        (inside, "vision 1", 1),
        (outside, "text", 2),
    ]


def test_hooks_are_removed_by_what_they_call():
    def ours(*_): ...

    def theirs(*_): ...

    module = nn.Linear(1, 1)
    before = snapshot(module)
    kept = [module.register_forward_hook(theirs), module.register_forward_pre_hook(theirs, with_kwargs=True)]
    between = snapshot(module)
    module.register_forward_hook(ours, with_kwargs=True)
    module.register_forward_pre_hook(ours)
    module.register_forward_pre_hook(ours, with_kwargs=True)
    remove_hooks(module, (ours,))
    assert_same_state(module, between)
    for handle in kept:
        handle.remove()
    assert_same_state(module, before)


# --- Short sequences


@pytest.mark.parametrize("name", ["Idefics2", "Idefics3", "SmolVLM", "InternVL"])
def test_the_model_inside_refuses_it_by_itself(name):
    """As `AutoModel` loads it, without a head."""
    model = build(f"{name}ForConditionalGeneration").model
    with pytest.raises(UnsupportedArchitectureError, match=f"^{name}Model reads one feature per patch"):
        apply_pitome(model, SHORT)


@pytest.mark.parametrize("name", REFUSED)
def test_who_reads_every_token_refuses_the_short_sequence(name, tmp_path):
    model = build(name)
    before = snapshot(model)
    message = (
        f"^{type(model).__name__} reads one feature per (patch|token) of its .* Pass unmerge=True \\(the default\\)"
    )
    with pytest.raises(UnsupportedArchitectureError, match=message):
        apply_pitome(model, SHORT)
    assert_same_state(model, before)
    model.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match=message):
        type(model).from_pretrained(tmp_path, pitome=SHORT)
    apply_pitome(model, PiToMeConfig(ratio=1.0, unmerge=False))  # nothing is shorter


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForPreTraining"])
def test_heads_of_text_models_that_need_every_token(head):
    model = getattr(transformers, f"Electra{head}")(transformers.ElectraConfig(**TEXT))
    with pytest.raises(UnsupportedArchitectureError, match=f"^Electra{head} reads one feature per token"):
        apply_pitome(model, SHORT)


def test_the_short_sequence_of_a_text_encoder_comes_with_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr(hosts.logger, "warning_once", said.append, raising=False)
    apply_pitome(transformers.ElectraForSequenceClassification(transformers.ElectraConfig(**TEXT)), SHORT)
    assert not said  # it reads the first token
    apply_pitome(transformers.ElectraModel(transformers.ElectraConfig(**TEXT)), SHORT)
    assert len(said) == 1 and "which an attention_mask does not fit any more" in said[0]


@pytest.mark.parametrize("name", SHORTENED)
def test_the_others_run_with_the_short_sequence(name):
    model, lengths = build(name), []
    apply_pitome(model, SHORT)
    encoder = rewritten_encoders(model)[0]
    encoder.register_forward_hook(lambda module, args, output: lengths.append(output[0].shape[1]))
    inputs = CASES[name].inputs(2)
    with torch.no_grad():
        short = outputs_of(model(**inputs))
        apply_pitome(model, PiToMeConfig(ratio=0.8, unmerge=True))
        model(**inputs)
    assert all(value.isfinite().all() for value in short.values())
    assert lengths[0] < lengths[-1]


def test_a_setting_that_is_refused_keeps_the_one_before():
    model = apply_pitome(build("Gemma3ForConditionalGeneration"), 0.8)
    before = snapshot(model)
    with pytest.raises(UnsupportedArchitectureError, match="unmerge=True"):
        apply_pitome(model, SHORT)
    assert_same_state(model, before)


def test_the_table_names_classes_of_transformers():
    names = {"DPREncoder": "dpr", "DPRContextEncoder": "dpr", "DPRQuestionEncoder": "dpr"}
    names |= {f"{kind}Model": "" for kind in ("VisionTextDualEncoder", "VisionEncoderDecoder")}
    assert hosts._READS_SHORT.keys() == names.keys()
    for name, family in names.items():
        module = f"transformers.models.{family}.modeling_{family}" if family else "transformers"
        assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.parametrize("kind", ["GroundingDino", "MMGroundingDino"])
def test_phrases_that_must_not_see_one_another_are_refused(kind):
    model = grounding_model(kind)
    before = snapshot(model)
    with pytest.raises(UnsupportedArchitectureError, match=f"^The BertModel of {kind}Model cannot merge: .* phrases"):
        apply_pitome(model, 0.8)
    assert_same_state(model, before)
    apply_pitome(model, 1.0)  # nothing merges


def grounding_model(kind):
    sizes = {"image_size": 32, "window_size": 2, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
    backbone = SwinConfig(**sizes, out_features=["stage2", "stage3", "stage4"])
    names = ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone, text_config=BertConfig(**TEXT), d_model=32, **dict.fromkeys(names, 2)
    )
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


class TwoEncoders(ViTPreTrainedModel):
    """Somebody's own model, which pools whatever it is given."""

    def __init__(self, config):
        super().__init__(config)
        self.vision, self.text = ViTModel(config), BertModel(BertConfig(**TEXT))

    def forward(self, pixel_values, input_ids):
        return self.vision(pixel_values)[0].mean(1), self.text(input_ids)[0].mean(1)


class MyGemma3(Gemma3ForConditionalGeneration):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def test_models_of_others():
    model = TwoEncoders(ViTConfig(**VISION)).eval()
    apply_pitome(model, PiToMeConfig(parts={"vision": SHORT, "text": SHORT}))
    assert len(rewritten_encoders(model)) == 2
    model(torch.randn(2, 3, 32, 32), torch.randint(7, 99, (2, 20)))
    mine = MyGemma3(build("Gemma3ForConditionalGeneration").config)
    with pytest.raises(UnsupportedArchitectureError, match="^MyGemma3 reads"):
        apply_pitome(mine, SHORT)
    apply_pitome(mine.model.vision_tower, SHORT)  # by itself, it may return what it likes
