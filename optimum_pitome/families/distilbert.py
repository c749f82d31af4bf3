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

"""DistilBERT."""

from __future__ import annotations

from transformers.models.distilbert import modeling_distilbert

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from .text import SETTINGS


class TransformerBlock(MergingLayer, modeling_distilbert.TransformerBlock):
    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        attention_output, _ = self.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        return self.sa_layer_norm(attention_output + hidden_states)

    def mlp_half(self, hidden_states):
        return self.output_layer_norm(self.ffn(hidden_states) + hidden_states)


register_architecture(
    modeling_distilbert.DistilBertModel,
    TransformerBlock,
    layers="transformer.layer",
    num_tokens=lambda config: config.max_position_embeddings,
    **SETTINGS,
)
