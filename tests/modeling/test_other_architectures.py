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

"""Architectures that are not built in: a user's own family, subclasses, what changed upstream, what is refused."""

import copy
import inspect
import pickle
import sys
import types

import pytest
import torch
from modeling.helpers import assert_same_state, build, difference, images, run, snapshot
from torch import nn
from transformers import GPT2Config, GPT2Model, PreTrainedConfig, ViTConfig, ViTModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.vit import modeling_vit

from optimum_pitome import (
    MergingLayer,
    PiToMeConfig,
    UnsupportedArchitectureError,
    apply_pitome,
    register_architecture,
    remove_pitome,
)
from optimum_pitome.families.table import FAMILIES, SUPPORTED_MODEL_TYPES
from optimum_pitome.modeling import registry


class UserAttention(modeling_vit.ViTAttention):
    pass


class UserLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.attn = UserAttention(config)
        self.mlp = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states), attention_mask, **kwargs)[0]
        return hidden_states + self.mlp(self.norm2(hidden_states))


class UserEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([UserLayer(config) for _ in range(3)])

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        for block in self.blocks:
            hidden_states = block(hidden_states, attention_mask, **kwargs)
        return modeling_vit.BaseModelOutputWithPooling(last_hidden_state=hidden_states)


@pytest.fixture
def clean_registry():
    before = set(registry._ARCHITECTURES)
    yield
    # Families that a test was the first to import stay: Python imports them once.
    for added in [base for base in registry._ARCHITECTURES if not (base in before or base.__module__ in FAMILIES)]:
        del registry._ARCHITECTURES[added]


def merging_user_layer():
    class UserMergingLayer(MergingLayer, UserLayer):
        def attention_half(self, hidden_states, attention_mask=None, **kwargs):
            return hidden_states + self.attn(self.norm1(hidden_states), attention_mask, **kwargs)[0]

        def mlp_half(self, hidden_states):
            return hidden_states + self.mlp(self.norm2(hidden_states))

    UserMergingLayer.__name__ = "UserLayer"
    return UserMergingLayer


def test_layers_with_masks_of_their_own_are_refused(clean_registry):
    """Their windows would be gone after a merge, without an error."""
    encoder = UserEncoder(ViTConfig(hidden_size=16, num_attention_heads=2))
    register_architecture(UserEncoder, merging_user_layer(), layers="blocks", attention="attn", num_prefix_tokens=1)
    encoder.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(UnsupportedArchitectureError, match=r"masks of their own \(sliding_attention\)"):
        apply_pitome(encoder, 0.8)
    encoder.config.layer_types = ["full_attention"] * 3
    apply_pitome(encoder, 0.8)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_registering_an_architecture(clean_registry, implementation):
    config = ViTConfig(hidden_size=16, num_attention_heads=2, attn_implementation=implementation)
    encoder, hidden_states = UserEncoder(config).eval(), torch.randn(2, 21, 16)
    with pytest.raises(UnsupportedArchitectureError, match="UserEncoder"):
        apply_pitome(encoder, 0.8)
    register_architecture(UserEncoder, merging_user_layer(), layers="blocks", attention="attn", num_prefix_tokens=1)
    before, dense = snapshot(encoder), encoder(hidden_states).last_hidden_state
    assert torch.equal(apply_pitome(encoder, 1.0)(hidden_states).last_hidden_state, dense)
    short = apply_pitome(encoder, PiToMeConfig(0.8, unmerge=False))(hidden_states).last_hidden_state
    assert short.shape == (2, 1 + 11, 16)  # 20 -> 16 -> 13 -> 11, and then CLS
    assert apply_pitome(encoder, 0.8)(hidden_states).last_hidden_state.shape == dense.shape
    assert_same_state(remove_pitome(encoder), before)
    assert torch.equal(encoder(hidden_states).last_hidden_state, dense)


def test_registering_what_cannot_work(clean_registry):
    with pytest.raises(ValueError, match="ViTModel is already registered"):
        apply_pitome(build(), 0.9)
        register_architecture(ViTModel, merging_user_layer())
    with pytest.raises(ValueError, match="expected a subclass of MergingLayer"):
        register_architecture(UserEncoder, dict)
    with pytest.raises(ValueError, match="Other rewrites UserLayer: both need the same name"):
        register_architecture(UserEncoder, type("Other", (MergingLayer, UserLayer), {}))
    assert UserEncoder not in registry._ARCHITECTURES


def test_a_layer_that_keeps_its_arguments_to_itself_is_refused(clean_registry):
    """The state must arrive: otherwise sizes would be ignored without a word."""
    layer_class = merging_user_layer()
    layer_class.attention_half = lambda self, hidden_states, attention_mask=None, **kwargs: (
        hidden_states + self.attn(self.norm1(hidden_states), attention_mask)[0]
    )
    register_architecture(UserEncoder, layer_class, layers="blocks", attention="attn", num_prefix_tokens=1)
    encoder = apply_pitome(
        UserEncoder(ViTConfig(hidden_size=16, num_attention_heads=2, attn_implementation="sdpa")), 0.8
    )
    with pytest.raises(RuntimeError, match="did not pass its keyword arguments"):
        encoder(torch.randn(2, 21, 16))


# --- subclasses -----------------------------------------------------------------------------------------------------


class OwnForward(modeling_vit.ViTModel):
    """Somebody's own model, with a forward of its own."""

    def forward(self, pixel_values, **kwargs):
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layernorm(hidden_states))


class NoArguments(modeling_vit.ViTModel):
    def forward(self, pixel_values):
        return super().forward(pixel_values)


class LosesArguments(modeling_vit.ViTModel):
    def forward(self, pixel_values, **kwargs):
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return BaseModelOutput(last_hidden_state=hidden_states)


def test_a_subclass_with_a_forward_of_its_own_merges():
    model, reference = OwnForward(build().config), build()
    model.load_state_dict(reference.state_dict())
    apply_pitome(model.eval(), 0.8)
    expected = run(apply_pitome(reference, 0.8))["last_hidden_state"]
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(copied)["last_hidden_state"], expected)
        assert torch.equal(copied.forward(images()).last_hidden_state, expected)


def test_a_forward_that_keeps_the_state_from_its_layers_is_refused():
    model = NoArguments(build().config)
    before = snapshot(model)
    with pytest.raises(UnsupportedArchitectureError, match="NoArguments.*takes no \\*\\*kwargs"):
        apply_pitome(model, 0.8)
    assert_same_state(model, before)
    derived = type("Derived", (NoArguments,), {})(build().config)
    with pytest.raises(UnsupportedArchitectureError, match="NoArguments is a ViTModel with a forward of its own"):
        apply_pitome(derived, 0.8)
    with pytest.raises(RuntimeError, match="LosesArguments.forward did not pass its keyword arguments on"):
        run(apply_pitome(LosesArguments(build().config), 0.8))


class Closed(UserEncoder):
    """An encoder of somebody's whose `forward` takes what it needs itself, and no more."""

    def forward(self, hidden_states):
        return super().forward(hidden_states)


def test_an_encoder_that_takes_no_keyword_arguments_is_refused(clean_registry):
    settings = {"layers": "blocks", "attention": "attn", "num_prefix_tokens": 1}
    encoder = Closed(ViTConfig(hidden_size=16, num_attention_heads=2, attn_implementation="sdpa")).eval()
    before = snapshot(encoder)
    register_architecture(Closed, merging_user_layer(), **settings)
    with pytest.raises(UnsupportedArchitectureError, match="Closed.forward takes no \\*\\*kwargs, so what merging"):
        apply_pitome(encoder, 0.8)
    assert_same_state(encoder, before)

    def forward(self, hidden_states, **kwargs):
        return UserEncoder.forward(self, hidden_states, **kwargs)

    register_architecture(Closed, merging_user_layer(), **settings, forward=forward, exist_ok=True)
    short = apply_pitome(encoder, {"ratio": 0.8, "unmerge": False})(torch.randn(2, 21, 16)).last_hidden_state
    assert short.shape == (2, 12, 16)


# --- what is refused ------------------------------------------------------------------------------------------------


def _without_mask(self, hidden_states, **kwargs): ...


def _renamed(self, x, attention_mask=None, **kwargs): ...


def _another_order(self, hidden_states, layer_head_mask=None, attention_mask=None, **kwargs): ...


def _another_kind(self, hidden_states, *, attention_mask=None, **kwargs): ...


def _no_keywords(self, hidden_states, attention_mask=None): ...


@pytest.mark.parametrize("forward", [_without_mask, _renamed, _another_order, _another_kind, _no_keywords])
def test_a_changed_signature_is_refused(monkeypatch, forward):
    model = build()
    before, dense = snapshot(model), run(model)
    with monkeypatch.context() as patch:
        patch.setattr(modeling_vit.ViTLayer, "forward", forward)
        with pytest.raises(UnsupportedArchitectureError) as error:
            apply_pitome(model, 0.9)
    for part in ("ViTLayer.forward", str(list(inspect.signature(forward).parameters)[1]), "newer optimum_pitome"):
        assert part in str(error.value)
    assert "register_architecture" in str(error.value) and "left dense" in str(error.value)
    assert_same_state(model, before)
    assert difference(run(model), dense) == 0.0


def test_arguments_that_a_layer_does_not_read_may_change(monkeypatch):
    """BERT's `past_key_values` became `cache` in transformers 5.24."""
    original = modeling_vit.ViTLayer.forward

    def forward(self, hidden_states, attention_mask=None, cache=None, **kwargs):
        return original(self, hidden_states, attention_mask, **kwargs)

    expected = run(apply_pitome(build(), 0.8))
    monkeypatch.setattr(modeling_vit.ViTLayer, "forward", forward)
    assert difference(run(apply_pitome(build(), 0.8)), expected) == 0.0


def test_an_unknown_architecture_is_refused():
    model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    before = snapshot(model)
    with pytest.raises(UnsupportedArchitectureError) as error:
        apply_pitome(model, 0.9)
    for part in ("GPT2Model", "vit", "dinov2", "register_architecture"):
        assert part in str(error.value)
    assert_same_state(model, before)
    with pytest.raises(UnsupportedArchitectureError, match="Linear"):
        apply_pitome(nn.Linear(2, 2), 0.9)


def test_replaced_layers_are_refused():
    model = build()
    model.layers[2] = nn.Identity()
    before = snapshot(model)
    with pytest.raises(UnsupportedArchitectureError, match="Identity.*before the layers are wrapped or replaced"):
        apply_pitome(model, 0.9)
    assert_same_state(model, before)


def test_attention_without_the_interface_is_refused(monkeypatch):
    class Attention(nn.Module):
        pass

    Attention.__module__ = "somewhere"
    monkeypatch.setitem(sys.modules, "somewhere", types.ModuleType("somewhere"))
    model = build()
    model.layers[2].attention = Attention()
    before = snapshot(model)
    with pytest.raises(UnsupportedArchitectureError, match="Attention does not use .* or give .* attention_class"):
        apply_pitome(model, 0.9)
    assert_same_state(model, before)


def test_a_module_that_contains_a_model():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = build()
            self.head = nn.Linear(32, 3)

    wrapper = Wrapper()
    dense = run(wrapper.vit)
    assert apply_pitome(wrapper, 0.8) is wrapper and not hasattr(wrapper, "config")
    assert difference(run(wrapper.vit), run(apply_pitome(build(), 0.8))) == 0.0
    assert difference(run(remove_pitome(wrapper).vit), dense) == 0.0


def test_the_configuration_of_a_model_stays_plain_data():
    model = apply_pitome(build(), PiToMeConfig(0.8, layers=[0, -1]))
    assert not isinstance(model.config.pitome, PreTrainedConfig)
    assert model.config.pitome["ratio"] == 0.8 and model.config.pitome["layers"] == [0, -1]
    assert '"pitome"' in model.config.to_json_string()


def test_messages_name_model_types_as_configurations_do():
    assert set(SUPPORTED_MODEL_TYPES) <= set(CONFIG_MAPPING_NAMES)
    assert {"bert", "blip-2", "data2vec-text", "vit_msn", "xlm-roberta"} <= set(SUPPORTED_MODEL_TYPES)
