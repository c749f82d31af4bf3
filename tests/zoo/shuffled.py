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

"""Language models that put neighbouring patches together, or pool them: Idefics2, Idefics3, SmolVLM and InternVL."""

import torch
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3VisionConfig,
    Idefics3VisionTransformer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    InternVLVisionModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
    SmolVLMVisionTransformer,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from zoo import Case
from zoo.clip_like import VISION, of_vision
from zoo.hosts import with_images
from zoo.llava import IMAGE_TOKEN, text_config
from zoo.vit import pixel_values


_LATENTS, _SIDE = 3, VISION["image_size"] // VISION["patch_size"]


def idefics2_config():
    perceiver = {
        "hidden_size": 32,
        "resampler_n_latents": _LATENTS,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "num_key_value_heads": 1,
        "resampler_head_dim": 16,
    }
    parts = {"vision_config": VISION, "perceiver_config": perceiver, "text_config": text_config().to_dict()}
    return Idefics2Config(**parts, image_token_id=IMAGE_TOKEN)


def idefics3_config(config_class=Idefics3Config):
    parts = {"vision_config": VISION, "text_config": text_config().to_dict()}
    return config_class(**parts, image_token_id=IMAGE_TOKEN, scale_factor=2, pad_token_id=0)


def smolvlm_config():
    return idefics3_config(SmolVLMConfig)


INTERNVL = {**VISION, "image_size": [VISION["image_size"]] * 2, "patch_size": [VISION["patch_size"]] * 2}


def internvl_vision_config():
    return InternVLVisionConfig(**INTERNVL, layer_scale_init_value=0.5, use_qk_norm=True, norm_type="rms_norm")


def internvl_config():
    parts = {"vision_config": internvl_vision_config().to_dict(), "text_config": text_config().to_dict()}
    return InternVLConfig(**parts, image_token_id=IMAGE_TOKEN, downsample_ratio=0.5)


def with_padded_images(num_placeholders: int):
    """One image for each sample, the last patches of which are padding."""

    def make(batch_size: int) -> dict[str, torch.Tensor]:
        inputs = with_images(num_placeholders)(batch_size)
        mask = torch.ones(batch_size, 1, VISION["image_size"], VISION["image_size"], dtype=torch.bool)
        for sample in range(batch_size):
            mask[sample, :, :, VISION["image_size"] - VISION["patch_size"] * (sample % 3) :] = False
        return {**inputs, "pixel_attention_mask": mask}

    return make


def padded_image(batch_size: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch_size, _SIDE, _SIDE, dtype=torch.bool)
    for sample in range(batch_size):
        mask[sample, :, _SIDE - sample % 3 :] = False
    return {**pixel_values(batch_size), "patch_attention_mask": mask}


def with_image(num_placeholders: int):
    def make(batch_size: int) -> dict[str, torch.Tensor]:
        inputs = with_images(num_placeholders)(batch_size)
        return {**inputs, "pixel_values": inputs["pixel_values"].squeeze(1)}

    return make


_SHUFFLED = _SIDE**2 // 4
_CONFIGS = {
    Idefics2VisionTransformer: (of_vision(Idefics2VisionConfig), padded_image),
    Idefics2ForConditionalGeneration: (idefics2_config, with_padded_images(_LATENTS)),
    Idefics3VisionTransformer: (of_vision(Idefics3VisionConfig), padded_image),
    Idefics3ForConditionalGeneration: (idefics3_config, with_padded_images(_SHUFFLED)),
    SmolVLMVisionTransformer: (of_vision(SmolVLMVisionConfig), padded_image),
    SmolVLMForConditionalGeneration: (smolvlm_config, with_padded_images(_SHUFFLED)),
    InternVLVisionModel: (internvl_vision_config, pixel_values),
    InternVLForConditionalGeneration: (internvl_config, with_image(_SHUFFLED)),
}
_GENERATE = (
    Idefics2ForConditionalGeneration,
    Idefics3ForConditionalGeneration,
    SmolVLMForConditionalGeneration,
    InternVLForConditionalGeneration,
)
CASES = [
    Case(
        model_class,
        config,
        inputs,
        reads_every_token=model_class in _GENERATE,
        flat=("image_hidden_states", "image_outputs.pooler_output") if model_class in _GENERATE else (),
    )
    for model_class, (config, inputs) in _CONFIGS.items()
]
