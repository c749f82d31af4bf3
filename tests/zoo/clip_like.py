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

"""Copies of CLIP, AIMv2, and SigLIP 2 with images of any shape."""

import torch
import transformers
from transformers import (
    Aimv2Config,
    Aimv2VisionConfig,
    AltCLIPConfig,
    AltCLIPTextConfig,
    AltCLIPVisionConfig,
    ChineseCLIPConfig,
    ChineseCLIPTextConfig,
    ChineseCLIPVisionConfig,
    MetaClip2Config,
    MetaClip2VisionConfig,
    Siglip2Config,
    Siglip2VisionConfig,
)

from zoo import Case
from zoo.text import SIZES as TEXT_SIZES
from zoo.text import text_inputs
from zoo.vision_language import TEXT, image_and_text, input_ids
from zoo.vit import SIZES, pixel_values


VISION = {name: value for name, value in SIZES.items() if name != "num_labels"} | {"num_hidden_layers": 3}


def of_two(config_class, text=None, vision=None, **settings):
    parts = {"text_config": {**TEXT, **(text or {})}, "vision_config": {**VISION, **(vision or {})}}
    return lambda: config_class(**parts, **{"projection_dim": 16, **settings})


def of_vision(config_class, **settings):
    return lambda: config_class(**VISION, **settings)


_NAFLEX = {"patch_size": 4, "num_patches": 36}


def naflex_vision_config():
    sizes = {name: value for name, value in VISION.items() if name not in ("image_size", "patch_size")}
    return Siglip2VisionConfig(**sizes, **_NAFLEX)


def naflex_config():
    text = {**TEXT, "projection_size": 32, "max_position_embeddings": 64}
    return Siglip2Config(text_config=text, vision_config=naflex_vision_config(), num_labels=3)


def padded_patches(batch_size: int) -> dict[str, torch.Tensor]:
    """Images of other shapes, whose patches are padded to the same number."""
    generator = torch.Generator().manual_seed(1)
    shapes = torch.tensor([[(6, 6), (4, 7), (3, 9)][i % 3] for i in range(batch_size)])
    mask = (torch.arange(36) < shapes.prod(dim=1, keepdim=True)).long()
    patches = torch.randn(batch_size, 36, 3 * 4 * 4, generator=generator) * mask.unsqueeze(-1)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def padded_patches_and_text(batch_size: int) -> dict[str, torch.Tensor]:
    return {**padded_patches(batch_size), **input_ids(batch_size)}


def of_text(config_class, **settings):
    return lambda: config_class(**{**TEXT_SIZES, **settings})


_ALT = {"text": {"project_dim": 16, "type_vocab_size": 1}}
_CONFIGS = {
    "MetaClip2Model": (of_two(MetaClip2Config), image_and_text),
    "MetaClip2VisionModel": (of_vision(MetaClip2VisionConfig), pixel_values),
    "MetaClip2VisionModelWithProjection": (of_vision(MetaClip2VisionConfig, projection_dim=16), pixel_values),
    "MetaClip2ForImageClassification": (of_two(MetaClip2Config, num_labels=3), pixel_values),
    "ChineseCLIPModel": (of_two(ChineseCLIPConfig), image_and_text),
    "ChineseCLIPVisionModel": (of_vision(ChineseCLIPVisionConfig), pixel_values),
    "ChineseCLIPTextModel": (of_text(ChineseCLIPTextConfig), text_inputs),
    "AltCLIPModel": (of_two(AltCLIPConfig, **_ALT), image_and_text),
    "AltCLIPVisionModel": (of_vision(AltCLIPVisionConfig), pixel_values),
    "AltCLIPTextModel": (of_text(AltCLIPTextConfig, project_dim=16, type_vocab_size=1), text_inputs),
    "Aimv2Model": (of_two(Aimv2Config), image_and_text),
    "Aimv2VisionModel": (of_vision(Aimv2VisionConfig), pixel_values),
    "Siglip2Model": (naflex_config, padded_patches_and_text),
    "Siglip2VisionModel": (naflex_vision_config, padded_patches),
    "Siglip2ForImageClassification": (naflex_config, padded_patches),
}
_CONTRASTIVE = ("MetaClip2Model", "ChineseCLIPModel", "AltCLIPModel", "Aimv2Model", "Siglip2Model")

CASES = [
    Case(
        getattr(transformers, name),
        config,
        inputs,
        across_samples=("logits_per_image", "logits_per_text") if name in _CONTRASTIVE else (),
        reads_every_token=name == "Siglip2ForImageClassification",
    )
    for name, (config, inputs) in _CONFIGS.items()
]
