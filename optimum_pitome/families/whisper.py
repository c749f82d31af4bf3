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

"""Whisper's encoder. The decoder reads the merged frames, each weighted by its size.

Where attention weights are asked for (`return_token_timestamps` looks for words in them), it reads all frames.
"""

from __future__ import annotations

import torch
from torch.nn.functional import dropout
from transformers.models.whisper import modeling_whisper

from ..modeling.cross_attention import register_reader
from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture


class WhisperEncoderLayer(MergingLayer, modeling_whisper.WhisperEncoderLayer):
    def attention_half(self, hidden_states, attention_mask, **kwargs):
        normed = self.self_attn_layer_norm(hidden_states)
        attention_output, _ = self.self_attn(normed, attention_mask=attention_mask, **kwargs)
        return hidden_states + dropout(attention_output, p=self.dropout, training=self.training)

    def mlp_half(self, hidden_states):
        inner = self.activation_fn(self.fc1(self.final_layer_norm(hidden_states)))
        inner = self.fc2(dropout(inner, p=self.activation_dropout, training=self.training))
        hidden_states = hidden_states + dropout(inner, p=self.dropout, training=self.training)
        if hidden_states.dtype == torch.float16:
            largest = torch.finfo(torch.float16).max - 1000
            hidden_states = hidden_states.clamp(min=-largest, max=largest)
        return hidden_states


register_architecture(
    modeling_whisper.WhisperEncoder,
    WhisperEncoderLayer,
    attention="self_attn",
    part="audio",
    num_prefix_tokens=0,
    num_tokens=lambda config: config.max_source_positions,
    # Its attention_mask is one of samples, which the encoder leaves unread: silence counts as sound.
    read_arguments=lambda arguments: {},
    read_whole=("WhisperForAudioClassification",),
)
register_reader(modeling_whisper.WhisperModel, "decoder", encoder="encoder", weighs_at="encoder_attn")
