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

"""MPNet: BERT's layers with a bias on the attention scores for the distance of the tokens.

A merged token keeps the position of the token that survives, so the bias between two of them is that of their original
places: rows and columns of the full bias. MPNet attends in its own code, always `eager`; it gets the log sizes as part
of the mask.

`MPNetModel` does not pass its keyword arguments on, so the encoder is what is rewritten; and the token ids, by which
separators and protected tokens are found, do not get there. They come as a mark on what leaves the embeddings. Where
the mark is lost (on the way to another device), the separator of a pair merges like any other token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.models.mpnet import modeling_mpnet

from ..modeling.attention import additive
from ..modeling.call import CALL_KEY
from ..modeling.layer import MergingLayer
from ..modeling.marks import mark, read_mark
from ..modeling.registry import register_architecture
from ..modeling.state import STATE_KEY
from ..modeling.token_arguments import cut_pairs
from ..modeling.wrap import wrap
from .text import SETTINGS


class MPNetLayer(MergingLayer, modeling_mpnet.MPNetLayer):
    def forward(self, hidden_states, attention_mask=None, position_bias=None, output_attentions=False, **kwargs):
        state = kwargs.get(STATE_KEY)
        if state is None:
            return super().forward(hidden_states, attention_mask, position_bias, output_attentions, **kwargs)
        tokens = state.slots[self.pitome_index].to(hidden_states.device)
        proportional = state.specs[self.pitome_index].proportional_attention
        if tokens.sizes is not None:
            attention_mask = tokens.attention_bias(hidden_states.dtype, proportional)
        elif attention_mask is not None and attention_mask.dtype == torch.bool:
            # It is added to the scores, so a caller's boolean one would only shift them by one.
            attention_mask = additive(attention_mask, hidden_states.dtype)
        attentions = []
        output = super().forward(
            hidden_states, attention_mask, position_bias, output_attentions, attentions=attentions, **kwargs
        )
        # Where nothing merges this is the original layer's tuple.
        return output if isinstance(output, tuple) else (output, *attentions)

    def attention_half(self, hidden_states, attention_mask, position_bias, output_attentions, attentions, **kwargs):
        attention = self.attention.attn
        heads = (-1, attention.attention_head_size)
        query, key = (
            layer(hidden_states).unflatten(-1, heads).transpose(1, 2) for layer in (attention.q, attention.k)
        )
        bias = position_bias if attention_mask is None else position_bias + attention_mask
        kwargs[CALL_KEY].record(query, key, bias)
        hidden_states, *weights = self.attention(
            hidden_states, attention_mask, position_bias=position_bias, output_attentions=output_attentions
        )
        attentions.extend(weights)
        return hidden_states

    def mlp_half(self, hidden_states):
        return self.output(self.intermediate(hidden_states), hidden_states)


def mark_ids(forward: Callable) -> Callable:
    """Wraps `MPNetEmbeddings.forward`: what it returns says which tokens were embedded."""

    def embed(self, input_ids: torch.Tensor | None = None, *args, **kwargs) -> torch.Tensor:
        embeddings = forward(self, input_ids, *args, **kwargs)
        if input_ids is not None:
            mark(embeddings, input_ids=input_ids)
        return embeddings

    return embed


def read_ids(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the encoder, with the token ids among them."""
    return {**arguments, **(read_mark(arguments["hidden_states"]) or {"input_ids": None})}


wrap(modeling_mpnet.MPNetEmbeddings, "forward", mark_ids)

register_architecture(
    modeling_mpnet.MPNetEncoder,
    MPNetLayer,
    layers="layer",
    attention="attention.attn",
    attention_interface=False,
    token_arguments={"position_bias": cut_pairs},
    read_arguments=read_ids,
    num_tokens=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    **SETTINGS,
)
