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
separators and protected tokens are found, do not get there. They come as one more row of the attention mask, which
nothing but our own code reads while tokens merge.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
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
        attention_mask = tokens.attention_bias(hidden_states.dtype, proportional)
        if tokens.positions is not None:
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


def hand_ids_on(forward: Callable) -> Callable:
    """Wraps `MPNetModel.forward`: see the module's docstring. A wrap of the class, so that it holds for who calls
    `forward` itself, too (sentence-transformers), and survives `deepcopy` and pickling."""
    names = list(inspect.signature(forward).parameters)[1:]

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        rewrite = vars(self.encoder).get("pitome")
        if rewrite is None or not rewrite.merges:
            return forward(self, *args, **kwargs)
        arguments = {**dict(zip(names, args)), **kwargs}
        if arguments.get("input_ids") is not None:
            arguments["attention_mask"] = with_ids(arguments.get("attention_mask"), arguments["input_ids"])
        return forward(self, **arguments)

    return wrapper


def with_ids(attention_mask: torch.Tensor | None, input_ids: torch.Tensor) -> torch.Tensor:
    """A mask in any form that [`read_mask`] accepts, of four dimensions, and `input_ids` `(B, N)` as one more row.

    One more column tells it from other masks: `(B, heads or 1, 2 or N + 1, N + 1)`.
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    fits = isinstance(attention_mask, torch.Tensor) and 2 <= attention_mask.dim() <= 4
    if not fits or attention_mask.shape[-1] != input_ids.shape[1]:
        return attention_mask  # refused further on
    if attention_mask.dim() == 2:
        attention_mask = attention_mask.bool()[:, None, None, :]
    elif attention_mask.dim() == 3:
        attention_mask = attention_mask.unsqueeze(1)
    # Ids are exact in float32; a mask that adds nothing to the scores stays one of whole numbers.
    dtype = torch.float32 if attention_mask.is_floating_point() else torch.long
    attention_mask = attention_mask.to(dtype).expand(input_ids.shape[0], -1, -1, -1)
    ids = input_ids.to(dtype)[:, None, None, :].expand(-1, attention_mask.shape[1], -1, -1)
    return torch.nn.functional.pad(torch.cat([attention_mask, ids], dim=2), (0, 1))


def take_ids(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Undoes [`with_ids`] in the arguments of the encoder."""
    mask, num_tokens = arguments.get("attention_mask"), arguments["hidden_states"].shape[1]
    if mask is None or mask.dim() != 4 or mask.shape[-1] != num_tokens + 1:
        return arguments
    return {**arguments, "attention_mask": mask[:, :, :-1, :-1], "input_ids": mask[:, 0, -1, :-1].long()}


modeling_mpnet.MPNetModel.forward = hand_ids_on(modeling_mpnet.MPNetModel.forward)

register_architecture(
    modeling_mpnet.MPNetEncoder,
    MPNetLayer,
    layers="layer",
    attention="attention.attn",
    attention_interface=False,
    track_positions=True,
    read_arguments=take_ids,
    layer_parameters=("hidden_states", "attention_mask", "position_bias", "output_attentions", "kwargs"),
    num_tokens=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    **SETTINGS,
)
