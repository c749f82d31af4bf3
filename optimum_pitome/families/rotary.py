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

"""Text encoders with rotary embeddings: Nomic BERT, Jina v3 (one body, which GTE has, too) and EuroBERT.

Tokens are compared by their hidden states, or, where `metric="keys"` is chosen, by the keys before their rotation. A
merged token keeps the place of the one that survived.
"""

from __future__ import annotations

from transformers.models.eurobert import modeling_eurobert
from transformers.models.jina_embeddings_v3 import modeling_jina_embeddings_v3
from transformers.models.nomic_bert import modeling_nomic_bert

from ..modeling.layer import RotaryLayer
from ..modeling.registry import register_architecture
from ..modeling.token_arguments import cut_rotary
from .text import SETTINGS


class PostNormRotaryLayer(RotaryLayer):
    """Each sum is normalised after it was made, as in BERT."""

    def attention_half(self, hidden_states, attention_mask=None, position_embeddings=None, **kwargs):
        attention_output, _ = self.self_attn(
            hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **kwargs
        )
        return self.post_attention_layernorm(hidden_states + self.post_attention_dropout(attention_output))

    def mlp_half(self, hidden_states):
        return self.post_mlp_layernorm(hidden_states + self.post_mlp_dropout(self.mlp(hidden_states)))


class NomicBertLayer(PostNormRotaryLayer, modeling_nomic_bert.NomicBertLayer):
    pass


class JinaEmbeddingsV3Layer(PostNormRotaryLayer, modeling_jina_embeddings_v3.JinaEmbeddingsV3Layer):
    pass


class EuroBertDecoderLayer(RotaryLayer, modeling_eurobert.EuroBertDecoderLayer):
    """An encoder's layer, whatever its name says. What else it takes is a cache, which is refused."""

    def attention_half(self, hidden_states, attention_mask=None, position_ids=None, **kwargs):
        normed = self.input_layernorm(hidden_states)
        return hidden_states + self.self_attn(normed, attention_mask=attention_mask, **kwargs)[0]

    def mlp_half(self, hidden_states):
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


ROTARY_SETTINGS = {
    **SETTINGS,
    "attention": "self_attn",
    "num_tokens": lambda config: config.max_position_embeddings,
    # Only flash attention reads position_ids, to find packed sequences, which are refused.
    "token_arguments": {"position_embeddings": cut_rotary, "position_ids": None},
}

register_architecture(modeling_nomic_bert.NomicBertModel, NomicBertLayer, **ROTARY_SETTINGS)
register_architecture(modeling_jina_embeddings_v3.JinaEmbeddingsV3Model, JinaEmbeddingsV3Layer, **ROTARY_SETTINGS)
register_architecture(
    modeling_eurobert.EuroBertModel,
    EuroBertDecoderLayer,
    read_whole=("EuroBertForSequenceClassification",),  # a mean by the mask
    **ROTARY_SETTINGS,
)
