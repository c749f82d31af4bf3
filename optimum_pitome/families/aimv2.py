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

"""AIMv2's vision tower: RMS norms, no CLS token, and a head that pools the tokens by attention."""

from __future__ import annotations

from transformers.models.aimv2 import modeling_aimv2

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from .clip import refuse_causal
from .siglip import SiglipStyleAttention
from .vit import num_patches


class Aimv2Attention(SiglipStyleAttention, modeling_aimv2.Aimv2Attention):
    pass


class Aimv2EncoderLayer(MergingLayer, modeling_aimv2.Aimv2EncoderLayer):
    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        normed = self.rms_norm1(hidden_states)
        return hidden_states + self.attention(normed, attention_mask=attention_mask, **kwargs)[0]

    def mlp_half(self, hidden_states):
        return hidden_states + self.ffn(self.rms_norm2(hidden_states))


register_architecture(
    modeling_aimv2.Aimv2VisionModel,
    Aimv2EncoderLayer,
    layers="encoder.layers",
    attention_class=Aimv2Attention,
    num_prefix_tokens=0,
    num_tokens=num_patches,
    full_length_at="encoder",  # the head weighs tokens and knows no sizes
)
refuse_causal(modeling_aimv2.Aimv2TextModel, "AIMv2")
