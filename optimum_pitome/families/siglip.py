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

"""SigLIP's vision tower: no CLS token, and a head that pools the tokens by attention."""

from __future__ import annotations

from transformers.models.siglip import modeling_siglip

from ..modeling.attention import MergingAttention
from ..modeling.registry import refuse_architecture, register_architecture
from .clip import CLIPStyleLayer
from .vit import num_patches


class SiglipStyleAttention(MergingAttention):
    """SigLIP's attention and its copies, which drop their keyword arguments."""

    def forward(self, hidden_states, attention_mask=None, **kwargs):
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        attention_output, attention_weights = self.attend(
            self.q_proj(hidden_states).view(heads).transpose(1, 2),
            self.k_proj(hidden_states).view(heads).transpose(1, 2),
            self.v_proj(hidden_states).view(heads).transpose(1, 2),
            attention_mask,
            kwargs,
            is_causal=self.is_causal,
            scaling=self.scale,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attention_output.reshape(hidden_states.shape)), attention_weights


class SiglipAttention(SiglipStyleAttention, modeling_siglip.SiglipAttention):
    pass


class SiglipEncoderLayer(CLIPStyleLayer, modeling_siglip.SiglipEncoderLayer):
    pass


register_architecture(
    modeling_siglip.SiglipVisionModel,
    SiglipEncoderLayer,
    layers="encoder.layers",
    attention="self_attn",
    attention_class=SiglipAttention,
    num_prefix_tokens=0,
    num_tokens=num_patches,
    # The pooling head weighs tokens by attention and knows no sizes: it must see every original token.
    full_length_at="encoder",
)
refuse_architecture(
    modeling_siglip.SiglipTextModel,
    part="text",
    reason="SigLIP's text tower pools at the last position, which merging would move",
)
