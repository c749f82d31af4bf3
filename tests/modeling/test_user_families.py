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

"""A family from outside the package: what the mechanism does for it, and what is refused with a useful message."""

import subprocess
import sys

import pytest
import torch
from modeling.test_other_architectures import UserAttention, UserEncoder, UserLayer, clean_registry, merging_user_layer
from torch import nn
from transformers import ViTConfig, ViTModel

import optimum_pitome
from optimum_pitome import (
    Architecture,
    MergingAttention,
    MergingLayer,
    UnsupportedArchitectureError,
    apply_pitome,
    cut_pairs,
    cut_rotary,
    pitome_disabled,
    pitome_summary,
    register_architecture,
    remove_pitome,
)


__all__ = ["clean_registry"]
pytestmark = pytest.mark.usefixtures("clean_registry")
SETTINGS = {"layers": "blocks", "attention": "attn", "num_prefix_tokens": 1}


def encoder():
    return UserEncoder(ViTConfig(hidden_size=16, num_attention_heads=2, attn_implementation="sdpa")).eval()


def output_of(model, num_tokens=21):
    tokens = torch.randn(2, num_tokens, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(tokens).last_hidden_state


def register(layer_class=None, **settings):
    return register_architecture(UserEncoder, layer_class or merging_user_layer(), **{**SETTINGS, **settings})


def layer_with(method, function):
    layer_class = merging_user_layer()
    setattr(layer_class, method, function)
    return layer_class


# --- the tokens at the front ----------------------------------------------------------------------------------------


def test_how_many_tokens_are_at_the_front_must_be_said():
    """With a default of 1, the first patch of an encoder without a class token would weigh all the others."""
    message = "UserEncoder, ...* needs num_prefix_tokens: .*1 for a class token, 0 for none"
    with pytest.raises(ValueError, match=message):
        register_architecture(UserEncoder, merging_user_layer(), layers="blocks", attention="attn")
    with pytest.raises(TypeError, match="num_prefix_tokens"):
        Architecture(UserEncoder, merging_user_layer())
    for wrong in (-1, 1.0, "1", True):
        with pytest.raises(ValueError, match="num_prefix_tokens=.*: expected the number of special tokens"):
            register(num_prefix_tokens=wrong)


@pytest.mark.parametrize("number", [0, 2])
def test_a_number_and_a_function_say_the_same(number):
    register(num_prefix_tokens=number)
    expected = output_of(apply_pitome(model := encoder(), 0.8))
    assert model.pitome.num_prefix_tokens == number
    register(num_prefix_tokens=lambda config: number, exist_ok=True)
    assert torch.equal(output_of(apply_pitome(remove_pitome(model), 0.8)), expected)


# --- an attention of the family's own -------------------------------------------------------------------------------


class WrongAttention(MergingAttention, UserAttention):
    """It gets everything wrong that it computes, and notes the keys."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        output, weights = super().forward(hidden_states, attention_mask, **kwargs)
        return output + 1, weights


WrongAttention.__name__ = "UserAttention"


@pytest.mark.parametrize("always", [False, True])
def test_the_dense_attention_runs_where_nothing_merges(monkeypatch, always):
    monkeypatch.setattr(WrongAttention, "replaces_dense", always)
    register(attention_class=WrongAttention)
    model = encoder()
    dense, short = output_of(model), output_of(model, 4)
    assert not torch.equal(output_of(apply_pitome(model, 0.8)), dense)
    # At a length of which 0.8 removes nothing; inside a block without merging; at ratio 1; after all.
    assert torch.equal(output_of(model, 4), short) is not always
    with pitome_disabled(model):
        assert torch.equal(output_of(model), dense) is not always
    assert torch.equal(output_of(apply_pitome(model, 1.0)), dense) is not always
    assert torch.equal(output_of(remove_pitome(model)), dense)


# --- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"layers": "layers"},
            "layers='layers' was not found in UserEncoder, which has the sub-modules blocks. Correct",
        ),
        (
            {"attention": "self.attn"},
            "attention='self.attn' was not found in UserLayer.*norm1, norm2, attn, attn.q_proj",
        ),
        ({"attention": "training"}, "attention='training' was not found in UserLayer"),
    ],
    ids=str,
)
def test_a_wrong_path_is_named(wrong, message):
    register(**wrong)
    with pytest.raises(ValueError, match=message):
        apply_pitome(encoder(), 0.8)


def test_swapped_bases_are_named():
    swapped = type("UserLayer", (UserLayer, MergingLayer), {})
    with pytest.raises(ValueError, match=r"UserLayer before MergingLayer.*class UserLayer\(MergingLayer, UserLayer\)"):
        register(swapped)
    swapped = type("UserAttention", (UserAttention, MergingAttention), {})
    with pytest.raises(ValueError, match=r"class UserAttention\(MergingAttention, UserAttention\)"):
        register(attention_class=swapped)
    for wrong in (UserAttention, type("UserAttention", (MergingAttention,), {}), "attn"):
        with pytest.raises(ValueError, match="attention_class=.*: expected a subclass of MergingAttention and of the"):
            register(attention_class=wrong)
    with pytest.raises(ValueError, match="layer_class=.*: expected a subclass of MergingLayer and of the"):
        register(type("UserLayer", (MergingLayer,), {}))


def test_a_signature_of_a_users_own_is_not_blamed_on_transformers():
    def attention_half(self, hidden_states, mask=None, **kwargs): ...

    class Attention(MergingAttention, UserAttention):
        def forward(self, hidden_states, **kwargs): ...

    Attention.__name__ = "UserAttention"
    for settings, parts in (
        (
            {"layer_class": layer_with("attention_half", attention_half)},
            ("UserLayer.forward takes", "attention_half of"),
        ),
        ({"attention_class": Attention}, ("UserAttention.forward takes", f"forward of {__name__}")),
    ):
        register(**settings, exist_ok=True)
        with pytest.raises(UnsupportedArchitectureError) as error:
            apply_pitome(encoder(), 0.8)
        for part in (*parts, "with the same names in the same order"):
            assert part in str(error.value)
        assert "install another version" not in str(error.value)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"defaults": {"metrics": "keys"}}, "defaults=.*has no field 'metrics'. Did you mean 'metric'"),
        ({"defaults": {"metric": "values"}}, "metric='values' is not known"),
        ({"token_arguments": {"attention_mask": cut_pairs}}, "attention_mask.*the mechanism itself"),
        ({"token_arguments": {"hidden_states": None}}, "these are the tokens themselves"),
        ({"token_arguments": {"rotary": "cut"}}, "expected a function such as cut_rotary, or None, not 'cut'"),
    ],
    ids=["a field", "a value", "the mask", "the tokens", "no function"],
)
def test_settings_that_would_have_no_effect_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        register(**wrong)


def test_a_misspelt_token_argument_is_refused():
    class Layer(UserLayer):
        def forward(self, hidden_states, attention_mask=None, position_embeddings=None, **kwargs): ...

    ours = type("Layer", (MergingLayer, Layer), {})
    with pytest.raises(
        ValueError, match="Layer.forward takes no 'position_embedings'. Did you mean 'position_embeddings'"
    ):
        register(ours, token_arguments={"position_embedings": cut_rotary})
    register(ours, token_arguments={"position_embeddings": cut_rotary, "angles": cut_rotary})  # read from **kwargs


def test_a_summary_names_both_remedies():
    register()
    with pytest.raises(ValueError, match=r"say it in register_architecture\(\.\.\., num_tokens=\.\.\.\)"):
        pitome_summary(apply_pitome(encoder(), 0.8))


def test_what_a_family_needs_is_public():
    for name in ("Architecture", "MergingAttention", "MergingLayer", "cut_pairs", "cut_positions", "cut_rotary"):
        assert name in optimum_pitome.__all__ and getattr(optimum_pitome, name) is not None


# --- registering again ----------------------------------------------------------------------------------------------


def test_a_cell_that_runs_twice():
    register(attention_class=WrongAttention)
    model = apply_pitome(encoder(), 0.8)
    with pytest.raises(ValueError, match="UserEncoder is already registered. Pass exist_ok=True to replace"):
        register()
    again = layer_with("mlp_half", lambda self, hidden_states: hidden_states)
    entry = register(again, attention_class=type("UserAttention", (WrongAttention,), {}), exist_ok=True)
    # The model that the cell before had rewritten gets the new classes.
    apply_pitome(model, 0.8)
    assert type(model.blocks[0]) is again and type(model.blocks[0].attn) is entry.attention_class
    assert type(remove_pitome(model).blocks[0]) is UserLayer and type(model.blocks[0].attn) is UserAttention


def test_what_is_built_in_stays():
    """It does so in a process that has used no family yet, too."""
    with pytest.raises(ValueError, match="ViTModel is already registered. It is built in"):
        register_architecture(ViTModel, merging_user_layer(), num_prefix_tokens=1, exist_ok=True)
    code = (
        "from transformers import ViTModel\nfrom optimum_pitome import MergingLayer, register_architecture\n"
        "register_architecture(ViTModel, MergingLayer, num_prefix_tokens=1, exist_ok=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ViTModel is already registered. It is built in" in done.stderr


def test_attention_that_is_set_to_nothing_is_told_what_to_say():
    class Attention(MergingAttention, nn.Module):
        pass

    attention, heads = Attention(), torch.randn(3, 1, 2, 5, 4)
    with pytest.raises(ValueError, match=r"Attention has no config.*tell attend \(implementation='sdpa'\)"):
        attention.attend(*heads, None, {})
    for attention.config in (ViTConfig(attn_implementation="eager"), ViTConfig()):
        with pytest.raises(ValueError, match=r"no eager_attention_forward stands beside its class.*\(eager=...\), or"):
            attention.attend(*heads, None, {})
    assert attention.attend(*heads, None, {}, "sdpa")[0].shape == (1, 5, 2, 4)
