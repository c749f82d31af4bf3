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
"""

from __future__ import annotations

from transformers.models.mpnet import modeling_mpnet

from ..modeling.call import CALL_KEY
from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from ..modeling.state import STATE_KEY, take_pairs
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
            position_bias = take_pairs(position_bias, tokens.positions)
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


register_architecture(
    # Not MPNetModel, which does not pass its keyword arguments on. Token ids do not get here, so the separator between
    # two sentences merges like any other token.
    modeling_mpnet.MPNetEncoder,
    MPNetLayer,
    layers="layer",
    attention="attention.attn",
    attention_interface=False,
    track_positions=True,
    num_tokens=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    **SETTINGS,
)
