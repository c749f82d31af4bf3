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

"""Depth estimation around DINOv2 backbones."""

import torch
import transformers
from transformers import (
    DepthAnythingConfig,
    DepthProConfig,
    DepthProForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    PromptDepthAnythingConfig,
)

from zoo import Case
from zoo.llava import IMAGE_SIZE, image
from zoo.vision_language import VISION
from zoo.vit import pixel_values


def large_pixel_values(batch_size: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": image(batch_size).repeat_interleave(2, -1).repeat_interleave(2, -2)}


def with_prompt_depth(batch_size: int) -> dict[str, torch.Tensor]:
    return {**pixel_values(batch_size), "prompt_depth": image(batch_size, seed=3)[:, :1, :8, :8].abs()}


def backbone():
    features = [f"stage{index}" for index in range(1, 5)]
    return Dinov2Config(**VISION, layerscale_value=0.5, out_features=features, reshape_hidden_states=False)


def depth_anything_config(config_class=DepthAnythingConfig):
    sizes = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "head_hidden_size": 8}
    return config_class(
        backbone_config=backbone(), patch_size=4, reassemble_hidden_size=32, reassemble_factors=[4, 2, 1, 0.5], **sizes
    )


def prompt_depth_anything_config():
    return depth_anything_config(PromptDepthAnythingConfig)


def dpt_config():
    return DPTConfig(
        backbone_config=backbone(),
        hidden_size=32,
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        is_hybrid=False,
        num_labels=3,
    )


def depth_pro_config():
    encoder = Dinov2Config(**VISION, layerscale_value=0.5)
    return DepthProConfig(
        patch_size=IMAGE_SIZE,
        patch_model_config=encoder.to_dict(),
        image_model_config=encoder.to_dict(),
        fov_model_config=encoder.to_dict(),
        fusion_hidden_size=8,
        intermediate_hook_ids=[2, 1],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5],
        scaled_images_feature_dims=[8, 8],
        merge_padding_value=1,
        use_fov_model=True,
    )


def positive_depth(model):
    """Depths after the ReLU are neither all zero nor in the thousands."""
    last = [module for module in model.head.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    torch.nn.init.ones_(last.bias)
    if isinstance(model, DepthProForDepthEstimation):
        last.weight.data *= 1e-3


_CONFIGS = {
    "DepthProForDepthEstimation": (depth_pro_config, large_pixel_values),
    "DepthAnythingForDepthEstimation": (depth_anything_config, pixel_values),
    "PromptDepthAnythingForDepthEstimation": (prompt_depth_anything_config, with_prompt_depth),
    "DPTForDepthEstimation": (dpt_config, pixel_values),
}
CASES = [
    Case(
        getattr(transformers, name),
        config,
        inputs,
        prepare=positive_depth,
        reads_every_token=True,
        # No SDPA of their own, around an encoder that has it.
        encoder_config="backbone_config" if "DepthAnything" in name else "",
        supported_since="5.18.0",  # DINOv2
    )
    for name, (config, inputs) in _CONFIGS.items()
]
