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

"""RoBERTa, XLM-RoBERTa (XL), CamemBERT, data2vec text, pre-norm RoBERTa: BERT's layers, positions of their own."""

from __future__ import annotations

from transformers.models.camembert import modeling_camembert
from transformers.models.data2vec import modeling_data2vec_text
from transformers.models.roberta import modeling_roberta
from transformers.models.roberta_prelayernorm import modeling_roberta_prelayernorm
from transformers.models.xlm_roberta import modeling_xlm_roberta
from transformers.models.xlm_roberta_xl import modeling_xlm_roberta_xl

from ..modeling.registry import register_architecture
from .bert import BERT_SETTINGS, BertStyleLayer


class RobertaLayer(BertStyleLayer, modeling_roberta.RobertaLayer):
    pass


class XLMRobertaLayer(BertStyleLayer, modeling_xlm_roberta.XLMRobertaLayer):
    pass


class XLMRobertaXLLayer(BertStyleLayer, modeling_xlm_roberta_xl.XLMRobertaXLLayer):
    pass


class CamembertLayer(BertStyleLayer, modeling_camembert.CamembertLayer):
    pass


class Data2VecTextLayer(BertStyleLayer, modeling_data2vec_text.Data2VecTextLayer):
    pass


class RobertaPreLayerNormLayer(BertStyleLayer, modeling_roberta_prelayernorm.RobertaPreLayerNormLayer):
    pass


def num_tokens(config) -> int:
    """Positions begin after those of the padding."""
    return config.max_position_embeddings - config.pad_token_id - 1


for _encoder_class, _layer_class in (
    (modeling_roberta.RobertaModel, RobertaLayer),
    (modeling_xlm_roberta.XLMRobertaModel, XLMRobertaLayer),
    (modeling_xlm_roberta_xl.XLMRobertaXLModel, XLMRobertaXLLayer),
    (modeling_camembert.CamembertModel, CamembertLayer),
    (modeling_data2vec_text.Data2VecTextModel, Data2VecTextLayer),
    (modeling_roberta_prelayernorm.RobertaPreLayerNormModel, RobertaPreLayerNormLayer),
):
    register_architecture(_encoder_class, _layer_class, **{**BERT_SETTINGS, "num_tokens": num_tokens})
