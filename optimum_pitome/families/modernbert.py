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

"""ModernBERT: global layers, and local ones in which a token attends to those near it only.

All layers may merge. A merged token keeps the place of the one that survived, in the rotary embeddings as in the
windows of local layers. What merged into it from elsewhere is seen from that place.
"""

from __future__ import annotations

from transformers.models.modernbert import modeling_modernbert

from ..modeling.layer import RotaryLayer
from ..modeling.registry import register_architecture
from ..modeling.token_arguments import cut_rotary
from .text import SETTINGS


class ModernBertEncoderLayer(RotaryLayer, modeling_modernbert.ModernBertEncoderLayer):
    def attention_half(self, hidden_states, attention_mask=None, position_embeddings=None, **kwargs):
        normed = self.attn_norm(hidden_states)
        return hidden_states + self.attn(normed, position_embeddings, attention_mask=attention_mask, **kwargs)[0]

    def mlp_half(self, hidden_states):
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


def window(layer) -> int | None:
    """The largest distance in a local layer."""
    return layer.config.sliding_window if layer.attention_type == "sliding_attention" else None


register_architecture(
    modeling_modernbert.ModernBertModel,
    ModernBertEncoderLayer,
    attention="attn",
    num_tokens=lambda config: config.max_position_embeddings,
    token_arguments={"position_embeddings": cut_rotary},
    window=window,
    **SETTINGS,
)
