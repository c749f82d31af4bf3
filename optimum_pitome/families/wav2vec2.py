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

"""Wav2Vec 2.0 and HuBERT: encoders of sound, with the norms after the sums or before the halves."""

from __future__ import annotations

from transformers.models.hubert import modeling_hubert
from transformers.models.wav2vec2 import modeling_wav2vec2

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture


class PostNormLayer(MergingLayer):
    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        attention_output, _ = self.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        return self.layer_norm(hidden_states + self.dropout(attention_output))

    def mlp_half(self, hidden_states):
        return self.final_layer_norm(hidden_states + self.feed_forward(hidden_states))


class PreNormLayer(MergingLayer):
    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        normed = self.layer_norm(hidden_states)
        attention_output, _ = self.attention(normed, attention_mask=attention_mask, **kwargs)
        return hidden_states + self.dropout(attention_output)

    def mlp_half(self, hidden_states):
        hidden_states = hidden_states + self.feed_forward(self.final_layer_norm(hidden_states))
        return hidden_states if self.adapter_layer is None else hidden_states + self.adapter_layer(hidden_states)


class Wav2Vec2EncoderLayer(PostNormLayer, modeling_wav2vec2.Wav2Vec2EncoderLayer):
    pass


class Wav2Vec2EncoderLayerStableLayerNorm(PreNormLayer, modeling_wav2vec2.Wav2Vec2EncoderLayerStableLayerNorm):
    pass


class HubertEncoderLayer(PostNormLayer, modeling_hubert.HubertEncoderLayer):
    pass


class HubertEncoderLayerStableLayerNorm(PreNormLayer, modeling_hubert.HubertEncoderLayerStableLayerNorm):
    pass


def num_frames(config) -> int:
    """Frames of ten seconds at 16 kHz, since sounds have no configured length."""
    length = 160000
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        length = (length - kernel) // stride + 1
    return length


# The models around these encoders make the mask of their frames from that of the samples.
for _encoder_class, _layer_class in (
    (modeling_wav2vec2.Wav2Vec2Encoder, Wav2Vec2EncoderLayer),
    (modeling_wav2vec2.Wav2Vec2EncoderStableLayerNorm, Wav2Vec2EncoderLayerStableLayerNorm),
    (modeling_hubert.HubertEncoder, HubertEncoderLayer),
    (modeling_hubert.HubertEncoderStableLayerNorm, HubertEncoderLayerStableLayerNorm),
):
    register_architecture(
        _encoder_class,
        _layer_class,
        part="audio",
        num_prefix_tokens=0,
        num_tokens=num_frames,
        any_length=True,
        read_whole=("Wav2Vec2ForSequenceClassification", "Wav2Vec2ForXVector", "HubertForSequenceClassification"),
    )
