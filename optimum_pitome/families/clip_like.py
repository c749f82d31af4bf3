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

"""Copies of CLIP: MetaCLIP 2, Chinese-CLIP and AltCLIP. The text towers of the last two are BERT and RoBERTa, and pool
at CLS."""

from __future__ import annotations

from transformers.models.altclip import modeling_altclip
from transformers.models.chinese_clip import modeling_chinese_clip
from transformers.models.metaclip_2 import modeling_metaclip_2

from ..modeling.registry import register_architecture
from .bert import BERT_SETTINGS, BertStyleLayer
from .clip import CLIP_SETTINGS, CLIPStyleLayer, refuse_causal
from .roberta import num_tokens


class MetaClip2EncoderLayer(CLIPStyleLayer, modeling_metaclip_2.MetaClip2EncoderLayer):
    pass


class ChineseCLIPVisionLayer(CLIPStyleLayer, modeling_chinese_clip.ChineseCLIPVisionLayer):
    pass


class AltCLIPEncoderLayer(CLIPStyleLayer, modeling_altclip.AltCLIPEncoderLayer):
    pass


class PlainBertLayer(BertStyleLayer):
    """BERT's layer with an attention that returns a tensor, not a tuple."""

    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        return self.attention(hidden_states, attention_mask, **kwargs)


class ChineseCLIPTextLayer(PlainBertLayer, modeling_chinese_clip.ChineseCLIPTextLayer):
    pass


class AltRobertaLayer(PlainBertLayer, modeling_altclip.AltRobertaLayer):
    pass


register_architecture(modeling_metaclip_2.MetaClip2VisionModel, MetaClip2EncoderLayer, **CLIP_SETTINGS)
register_architecture(modeling_chinese_clip.ChineseCLIPVisionModel, ChineseCLIPVisionLayer, **CLIP_SETTINGS)
register_architecture(modeling_altclip.AltCLIPVisionModel, AltCLIPEncoderLayer, **CLIP_SETTINGS)
register_architecture(modeling_chinese_clip.ChineseCLIPTextModel, ChineseCLIPTextLayer, **BERT_SETTINGS)
register_architecture(
    modeling_altclip.AltRobertaModel,
    AltRobertaLayer,
    **{**BERT_SETTINGS, "layers": "encoder.layers", "num_tokens": num_tokens},
)
refuse_causal(modeling_metaclip_2.MetaClip2TextModel, "MetaCLIP 2")
