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
from transformers import ASTConfig

from zoo import Case
from zoo.vit import SIZES


TINY = {name: value for name, value in SIZES.items() if name != "image_size"} | {"num_hidden_layers": 3}


def spectrogram(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"input_values": torch.randn(batch_size, 24, 16, generator=generator)}


def ast_config():
    return ASTConfig(**TINY, frequency_stride=4, time_stride=3, max_length=24, num_mel_bins=16)


_CONFIGS = {
    "ASTModel": (ast_config, spectrogram),
    "ASTForAudioClassification": (ast_config, spectrogram),
}

CASES = [Case(getattr(transformers, name), config, inputs) for name, (config, inputs) in _CONFIGS.items()]
