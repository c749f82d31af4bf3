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

"""Encoders that were registered with their layer's own class: tokens merge after whole layers."""

import copy
import pickle

import pytest
import torch
from modeling.test_other_architectures import UserEncoder, UserLayer, clean_registry
from torch import nn
from transformers import ViTConfig
from transformers.modeling_outputs import BaseModelOutput

from optimum_pitome import apply_pitome, pitome_summary, register_architecture, remove_pitome
from optimum_pitome.apply import layers_watched
from optimum_pitome.modeling import whole_layer


__all__ = ["clean_registry"]
pytestmark = pytest.mark.usefixtures("clean_registry")
SETTINGS = {"layers": "blocks", "attention": "attn", "num_prefix_tokens": 1}


class TupleLayer(UserLayer):
    def forward(self, hidden_states, attention_mask=None, **kwargs):
        return (super().forward(hidden_states, attention_mask, **kwargs),)


class TupleEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.blocks = config, nn.ModuleList([TupleLayer(config) for _ in range(2)])

    def forward(self, hidden_states, **kwargs):
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)[0]
        return hidden_states


class StrictLayer(UserLayer):
    def forward(self, hidden_states):
        return super().forward(hidden_states)


class StrictEncoder(UserEncoder):
    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList([StrictLayer(config) for _ in range(2)])


class RenamedLayer(UserLayer):
    def forward(self, x, **kwargs):
        return super().forward(x, **kwargs)


class RenamedEncoder(UserEncoder):
    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList([RenamedLayer(config) for _ in range(3)])

    def forward(self, hidden_states, **kwargs):
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class KeywordEncoder(RenamedEncoder):
    """Its layers are called with the tokens by name."""

    def forward(self, hidden_states, **kwargs):
        for block in self.blocks:
            hidden_states = block(x=hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class KeywordOnlyLayer(UserLayer):
    def forward(self, *, x, **kwargs):
        return super().forward(x, **kwargs)


class KeywordOnlyEncoder(UserEncoder):
    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList([KeywordOnlyLayer(config) for _ in range(2)])


def build(encoder_class=UserEncoder):
    torch.manual_seed(0)
    encoder = encoder_class(ViTConfig(hidden_size=16, num_attention_heads=2, attn_implementation="sdpa")).eval()
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder


@pytest.fixture
def tokens():
    return torch.randn(3, 21, 16, generator=torch.Generator().manual_seed(1))


def states_of(model, tokens):
    with torch.no_grad():
        return model(tokens).last_hidden_state


def test_a_merge_comes_after_the_dense_layer(tokens):
    register_architecture(UserEncoder, UserLayer, **SETTINGS)
    encoder, records = build(), []
    dense = states_of(encoder, tokens)
    assert torch.equal(states_of(apply_pitome(encoder, 1.0), tokens), dense)
    apply_pitome(encoder, {"ratio": 0.7, "layers": [0, 2], "unmerge": False})
    with layers_watched(encoder, records.append):
        found = states_of(encoder, tokens)
    first, last = [record.plan for record in records]
    # By hand: dense layers on what is left, with log sizes in the attention of those after the first merge.
    reference = build()
    expected = first.merge(reference.blocks[0](tokens))
    sizes = first.merge_sizes(torch.ones(3, 21))
    bias = sizes.log()[:, None, None, :]
    expected = last.merge(
        reference.blocks[2](reference.blocks[1](expected, bias), bias), sizes, last.merge_sizes(sizes)
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    alone = states_of(encoder, tokens[1:2])
    torch.testing.assert_close(found[1:2], alone, atol=1e-6, rtol=1e-5)
    assert torch.equal(states_of(remove_pitome(encoder), tokens), dense)


def test_copies_merge(tokens):
    register_architecture(UserEncoder, UserLayer, **SETTINGS)
    encoder = apply_pitome(build(), 0.7)
    expected = states_of(encoder, tokens)
    pickled = pickle.dumps(encoder)
    for made in (copy.deepcopy(encoder), pickle.loads(pickled)):
        assert type(made.blocks[0]).__name__ == "UserLayer" and torch.equal(states_of(made, tokens), expected)
    # A second registration, as when a cell of a notebook runs again, knows the layers of before.
    register_architecture(UserEncoder, UserLayer, **SETTINGS, exist_ok=True)
    assert torch.equal(states_of(apply_pitome(encoder, 0.7), tokens), expected)
    with pytest.raises(AttributeError, match="not registered here \\(my_Layer\\). Call register_architecture"):
        whole_layer.my_Layer


def test_the_mlp_of_a_merging_layer_counts_on_every_token():
    register_architecture(UserEncoder, UserLayer, **SETTINGS)
    first = pitome_summary(apply_pitome(build(), 0.7), num_tokens=21).layers[0]
    assert first.gflops_merged == first.gflops_dense


def test_a_layer_that_returns_no_tensor_is_named(tokens):
    register_architecture(TupleEncoder, TupleLayer, **SETTINGS)
    encoder = build(TupleEncoder)
    with pytest.raises(RuntimeError, match="TupleLayer returned a tuple, and only a tensor .* Write a MergingLayer"):
        apply_pitome(encoder, 0.7)(tokens)


def test_a_layer_that_keeps_its_keyword_arguments_is_named():
    register_architecture(StrictEncoder, StrictLayer, **SETTINGS)
    with pytest.raises(ValueError, match="StrictLayer.forward has to take the tokens .* and \\*\\*kwargs"):
        apply_pitome(build(StrictEncoder), 0.7)


@pytest.mark.parametrize("encoder_class", [RenamedEncoder, KeywordEncoder])
def test_the_tokens_may_have_any_name(tokens, encoder_class):
    register_architecture(UserEncoder, UserLayer, **SETTINGS)
    register_architecture(encoder_class, RenamedLayer, **SETTINGS)
    expected = apply_pitome(build(), 0.7)
    encoder = build(encoder_class)
    encoder.load_state_dict(expected.state_dict())
    dense = states_of(encoder, tokens)
    found = states_of(apply_pitome(encoder, 0.7), tokens)
    assert torch.equal(found, states_of(expected, tokens)) and not torch.equal(found, dense)
    assert torch.equal(states_of(remove_pitome(encoder), tokens), dense)


def test_tokens_that_come_by_keyword_alone_are_refused():
    register_architecture(KeywordOnlyEncoder, KeywordOnlyLayer, **SETTINGS)
    with pytest.raises(ValueError, match="KeywordOnlyLayer.forward has to take the tokens as its first parameter"):
        apply_pitome(build(KeywordOnlyEncoder), 0.7)
