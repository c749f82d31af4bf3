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

"""BERT, ELECTRA and ERNIE."""

from __future__ import annotations

import torch
from transformers.models.bert import modeling_bert
from transformers.models.electra import modeling_electra
from transformers.models.ernie import modeling_ernie

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from .text import SETTINGS


class BertStyleLayer(MergingLayer):
    """Layers with BERT's sub-modules and arguments, whether the norm comes before or after the residual sum."""

    # It does, but refuses sequences that are no multiple of `chunk_size_feed_forward`, as merged ones may be.
    passes_kwargs = False

    def attention_half(self, hidden_states, attention_mask=None, *decoder_arguments, **kwargs):
        # What else BERT's layers take belongs to decoders, which are refused: nothing is passed in it.
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        return self.attention(hidden_states, attention_mask, **kwargs)[0]

    def mlp_half(self, hidden_states):
        size, dim = self.chunk_size_feed_forward, self.seq_len_dim
        if not size or torch.compiler.is_compiling():  # a compiler may not know the length, and saves memory by itself
            return self.feed_forward_chunk(hidden_states)
        # The last may be shorter.
        return torch.cat([self.feed_forward_chunk(chunk) for chunk in hidden_states.split(size, dim)], dim)


class BertLayer(BertStyleLayer, modeling_bert.BertLayer):
    pass


class ElectraLayer(BertStyleLayer, modeling_electra.ElectraLayer):
    pass


class ErnieLayer(BertStyleLayer, modeling_ernie.ErnieLayer):
    pass


BERT_SETTINGS = {
    **SETTINGS,
    "layers": "encoder.layer",
    "attention": "attention.self",
    "num_tokens": lambda config: config.max_position_embeddings,
}

register_architecture(modeling_bert.BertModel, BertLayer, **BERT_SETTINGS)
register_architecture(modeling_electra.ElectraModel, ElectraLayer, **BERT_SETTINGS)
register_architecture(modeling_ernie.ErnieModel, ErnieLayer, **BERT_SETTINGS)
