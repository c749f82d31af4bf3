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

"""BLIP's vision tower. Its attention is eager only in transformers, with one projection for queries, keys, values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.models.blip import modeling_blip, modeling_blip_text

from ..modeling.attention import MergingAttention
from ..modeling.cross_attention import register_reader
from ..modeling.marks import carry_mark
from ..modeling.registry import register_architecture
from ..modeling.wrap import wrap
from .clip import CLIP_SETTINGS, CLIPStyleLayer


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """BLIP's own arithmetic (no float32 softmax), as an attention function."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.nn.functional.softmax(scores, dim=-1)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).permute(0, 2, 1, 3), weights


class BlipAttention(MergingAttention, modeling_blip.BlipAttention):
    """Proportional attention, and SDPA unless the weights are asked for.

    The `eager` in the configuration is all that transformers has for BLIP, not a choice. With `output_attentions` the
    arithmetic is BLIP's own, to the last bit. The dense model gets SDPA, too, so that a comparison with it shows what
    merging does.
    """

    replaces_dense = True

    def forward(self, hidden_states, **kwargs):
        batch_size, num_tokens, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(batch_size, num_tokens, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        asks_for_weights = kwargs.get("output_attentions") or self.config.output_attentions
        attention_output, attention_weights = self.attend(
            query,
            key,
            value,
            None,
            kwargs,
            implementation="eager" if asks_for_weights else "sdpa",
            scaling=self.scale,
            dropout=self.dropout.p if self.training else 0.0,
        )
        return self.projection(attention_output.reshape(hidden_states.shape)), attention_weights


class BlipEncoderLayer(CLIPStyleLayer, modeling_blip.BlipEncoderLayer):
    pass


def official_blip(index: int, num_layers: int) -> dict:
    """BLIP in the released code: hidden states after the attention, all layers but the last."""
    return {
        "energy": "elu",
        "metric": "hidden_states",
        "margin": 0.9 - 0.9 * index / num_layers,
        "proportional_attention": False,
        "merges": index < num_layers - 1,
    }


register_architecture(
    modeling_blip.BlipVisionModel,
    BlipEncoderLayer,
    attention_class=BlipAttention,
    official=official_blip,
    **CLIP_SETTINGS,
)

# What attends to the image drops the mask of the image's tokens on the way to its scores.
_READER = {"drops_mask": "crossattention.self"}

register_reader(modeling_blip.BlipForImageTextRetrieval, "text_encoder", **_READER)
register_reader(modeling_blip.BlipForQuestionAnswering, "text_encoder", **_READER)
register_reader(modeling_blip.BlipForConditionalGeneration, "text_decoder.bert", **_READER)


def _carry_marks(expand: Callable) -> Callable:
    """Beam search copies the image's tokens: the copies keep the mark that says how to shorten them."""

    def expand_inputs(*args, expand_size=1, **arguments):
        states = arguments.get("encoder_hidden_states")
        input_ids, model_kwargs = expand(*args, expand_size=expand_size, **arguments)
        if states is not None:
            carry_mark(states, model_kwargs["encoder_hidden_states"], expand_size)
        return input_ids, model_kwargs

    return expand_inputs


wrap(modeling_blip_text.BlipTextLMHeadModel, "_expand_inputs_for_generation", _carry_marks)
