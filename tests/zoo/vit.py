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

"""The ViT family."""

import torch
import transformers
from transformers import (
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    ViTConfig,
    ViTMSNConfig,
)

from zoo import Case


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 4,
    "num_labels": 3,
}


def pixel_values(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(batch_size, 3, 32, 32, generator=generator)}


def vit_config():
    return ViTConfig(**SIZES, encoder_stride=4)


def deit_config():
    return DeiTConfig(**SIZES, encoder_stride=4)


def vit_msn_config():
    return ViTMSNConfig(**SIZES)


def dinov2_config(**kwargs):
    return Dinov2Config(**SIZES, layerscale_value=0.5, **kwargs)


def swiglu_config():
    return dinov2_config(use_swiglu_ffn=True)


def backbone_config():
    return dinov2_config(out_features=["stage2", "stage4"])


def registers_config(**kwargs):
    return Dinov2WithRegistersConfig(**SIZES, layerscale_value=0.5, num_register_tokens=3, **kwargs)


def registers_backbone_config():
    return registers_config(out_features=["stage2", "stage4"])


def dinov3_config(**kwargs):
    return DINOv3ViTConfig(**SIZES, layerscale_value=0.5, num_register_tokens=2, **kwargs)


def dinov3_backbone_config():
    return dinov3_config(out_features=["stage2", "stage4"])


_CONFIGS = {
    "ViTModel": vit_config,
    "ViTForImageClassification": vit_config,
    "ViTForMaskedImageModeling": vit_config,
    "DeiTModel": deit_config,
    "DeiTForImageClassification": deit_config,
    "DeiTForImageClassificationWithTeacher": deit_config,
    "DeiTForMaskedImageModeling": deit_config,
    "ViTMSNModel": vit_msn_config,
    "ViTMSNForImageClassification": vit_msn_config,
    "Dinov2Model": swiglu_config,
    "Dinov2ForImageClassification": dinov2_config,
    "Dinov2Backbone": backbone_config,
    "Dinov2WithRegistersModel": registers_config,
    "Dinov2WithRegistersForImageClassification": registers_config,
    "Dinov2WithRegistersBackbone": registers_backbone_config,
    "DINOv3ViTModel": dinov3_config,
    "DINOv3ViTBackbone": dinov3_backbone_config,
}


def _case(name, config) -> Case:
    # Until 5.17, the layers of DINOv2 take nothing but the hidden states.
    since = "5.18.0" if name.startswith("Dinov2") else "5.0"
    grid = name.endswith(("ForMaskedImageModeling", "Backbone"))
    return Case(getattr(transformers, name), config, pixel_values, reads_every_token=grid, supported_since=since)


CASES = [_case(name, config) for name, config in _CONFIGS.items()]
