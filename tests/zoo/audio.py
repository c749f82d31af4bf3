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

"""Encoders of sound."""

import torch
import transformers
from transformers import ASTConfig, HubertConfig, Wav2Vec2Config, WhisperConfig

from zoo import Case
from zoo.vit import SIZES


TINY = {name: value for name, value in SIZES.items() if name != "image_size"} | {"num_hidden_layers": 3}


def spectrogram(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"input_values": torch.randn(batch_size, 24, 16, generator=generator)}


def ast_config():
    return ASTConfig(**TINY, frequency_stride=4, time_stride=3, max_length=24, num_mel_bins=16)


def waves(batch_size: int) -> dict[str, torch.Tensor]:
    """Clips of different lengths, padded."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.tensor([[300, 170, 240][i % 3] for i in range(batch_size)]).unsqueeze(1)
    mask = (torch.arange(300) < ends).long()
    return {"input_values": torch.randn(batch_size, 300, generator=generator) * mask, "attention_mask": mask}


def speech(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"input_features": torch.randn(batch_size, 8, 60, generator=generator)}


def speech_and_text(batch_size: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 50, (batch_size, 6), generator=torch.Generator().manual_seed(2))
    return {**speech(batch_size), "decoder_input_ids": ids}


_CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (5, 3),
    "conv_stride": (4, 2),
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "vocab_size": 20,
    "classifier_proj_size": 8,
}


def wav2vec2_config(config_class=Wav2Vec2Config, **settings):
    sizes = {name: value for name, value in TINY.items() if name != "patch_size"}
    return config_class(**sizes, **_CONVOLUTIONS, **settings)


def stable_wav2vec2_config():
    return wav2vec2_config(do_stable_layer_norm=True, adapter_attn_dim=4)


def hubert_config():
    return wav2vec2_config(HubertConfig)


def stable_hubert_config():
    return wav2vec2_config(HubertConfig, do_stable_layer_norm=True)


def whisper_config():
    sizes = {"encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "classifier_proj_size": 8}
    ids = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 4}
    lengths = {"max_source_positions": 30, "max_target_positions": 20, "num_mel_bins": 8}
    return WhisperConfig(**sizes, **widths, **ids, **lengths, suppress_tokens=None, begin_suppress_tokens=None)


_CONFIGS = {
    "ASTModel": (ast_config, spectrogram),
    "ASTForAudioClassification": (ast_config, spectrogram),
    "Wav2Vec2Model": (wav2vec2_config, waves),
    "Wav2Vec2ForSequenceClassification": (stable_wav2vec2_config, waves),
    "Wav2Vec2ForCTC": (wav2vec2_config, waves),
    "HubertModel": (hubert_config, waves),
    "HubertForSequenceClassification": (stable_hubert_config, waves),
    "HubertForCTC": (hubert_config, waves),
    "WhisperModel": (whisper_config, speech_and_text),
    "WhisperForConditionalGeneration": (whisper_config, speech_and_text),
    "WhisperForAudioClassification": (whisper_config, speech),
}
_EVERY_TOKEN = ("ForCTC", "ForSequenceClassification", "WhisperForAudioClassification")


def _case(name, config, inputs) -> Case:
    # Before, the layers of Wav2Vec2 and HuBERT take nothing but the hidden states and the mask.
    since = "5.16.0" if name.startswith(("Wav2Vec2", "Hubert")) else "5.0"
    model_class = getattr(transformers, name)
    return Case(model_class, config, inputs, reads_every_token=name.endswith(_EVERY_TOKEN), supported_since=since)


CASES = [_case(name, config, inputs) for name, (config, inputs) in _CONFIGS.items()]
