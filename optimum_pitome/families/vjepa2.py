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

"""V-JEPA 2: rotary embeddings that every layer computes from the places of its tokens in time and space.

Keys are compared as they are before those (docs/rotary.md). Nothing could turn them back: V-JEPA 2 gives the two
features of a pair angles of different frequencies, so what it does to them is no rotation. A merged token keeps the
place of the one that survived.
"""

from __future__ import annotations

from transformers.models.vit.modeling_vit import eager_attention_forward
from transformers.models.vjepa2 import modeling_vjepa2

from ..modeling.attention import MergingAttention
from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from ..modeling.token_arguments import cut_positions


class VJEPA2RopeAttention(MergingAttention, modeling_vjepa2.VJEPA2RopeAttention):
    """The original takes no keyword arguments."""

    def forward(self, hidden_states, position_mask=None, **kwargs):
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        places = self.get_position_ids(hidden_states, masks=position_mask)
        compared = key
        query, key = (self.apply_rotary_embeddings(rotated, places) for rotated in (query, key))
        dropout = self.dropout_prob if self.training else 0.0
        # V-JEPA's own attention function for eager leaves masks unread, and log sizes come as one.
        eager = eager_attention_forward
        output, weights = self.attend(
            query, key, value, None, kwargs, None, eager, compared, scaling=self.scaling, dropout=dropout
        )
        return self.proj(output.flatten(2)), weights


class VJEPA2Layer(MergingLayer, modeling_vjepa2.VJEPA2Layer):
    passes_kwargs = False

    def forward(self, hidden_states, position_mask=None, **kwargs):
        output = super().forward(hidden_states, position_mask, **kwargs)
        return output if isinstance(output, tuple) else (output, None)  # nothing reads the weights in it

    def attention_half(self, hidden_states, position_mask=None, **kwargs):
        attention_output, _ = self.attention(self.norm1(hidden_states), position_mask=position_mask, **kwargs)
        return self.drop_path(attention_output) + hidden_states

    def mlp_half(self, hidden_states):
        return self.drop_path(self.mlp(self.norm2(hidden_states))) + hidden_states


# The model around the encoder has a predictor, which reads every token.
register_architecture(
    modeling_vjepa2.VJEPA2Encoder,
    VJEPA2Layer,
    layers="layer",
    attention_class=VJEPA2RopeAttention,
    token_arguments={"position_mask": cut_positions},
    num_prefix_tokens=0,
    num_tokens=lambda config: (
        (config.crop_size // config.patch_size) ** 2 * (config.frames_per_clip // config.tubelet_size)
    ),
    read_whole=("VJEPA2Model", "VJEPA2ForVideoClassification"),
)
