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

"""Vision-language models: CLIP and SigLIP."""

import torch
import transformers
from transformers import CLIPConfig, CLIPVisionConfig, SiglipConfig, SiglipVisionConfig

from zoo import Case
from zoo.vit import SIZES, pixel_values


VISION = {name: value for name, value in SIZES.items() if name != "num_labels"}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
    "max_position_embeddings": 16,
    "bos_token_id": 57,
    "eos_token_id": 58,
    "pad_token_id": 0,
}


def input_ids(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 50, (batch_size, 8), generator=generator)
    ids[:, -1] = TEXT["eos_token_id"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def image_and_text(batch_size: int) -> dict[str, torch.Tensor]:
    return {**pixel_values(batch_size), **input_ids(batch_size)}


def clip_config():
    return CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16, num_labels=3)


def clip_vision_config():
    return CLIPVisionConfig(**VISION, projection_dim=16)


def siglip_config():
    text = {**TEXT, "projection_size": 32}
    return SiglipConfig(text_config=text, vision_config=VISION, num_labels=3)


def siglip_vision_config():
    return SiglipVisionConfig(**VISION)


_CONFIGS = {
    "CLIPModel": (clip_config, image_and_text),
    "CLIPVisionModel": (clip_vision_config, pixel_values),
    "CLIPVisionModelWithProjection": (clip_vision_config, pixel_values),
    "CLIPForImageClassification": (clip_config, pixel_values),
    "SiglipModel": (siglip_config, image_and_text),
    "SiglipVisionModel": (siglip_vision_config, pixel_values),
    "SiglipForImageClassification": (siglip_config, pixel_values),
}

_CONTRASTIVE = {name: ("logits_per_image", "logits_per_text") for name in ("CLIPModel", "SiglipModel")}

CASES = [
    Case(getattr(transformers, name), config, inputs, across_samples=_CONTRASTIVE.get(name, ()))
    for name, (config, inputs) in _CONFIGS.items()
]
