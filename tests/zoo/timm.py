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

"""Models of timm inside transformers' wrapper, where timm is installed (`make test-timm`)."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from transformers import TimmWrapperConfig
from transformers.utils import is_timm_available

from zoo import Case
from zoo.vit import pixel_values


#: Of a ViT with 8 × 8 patches.
SIZES = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}


def timm_config(architecture: str = "vit_tiny_patch16_224", **arguments) -> TimmWrapperConfig:
    return TimmWrapperConfig(architecture=architecture, model_args={**SIZES, **arguments}, num_labels=3)


def perception(**arguments) -> TimmWrapperConfig:
    return timm_config("vit_pe_core_tiny_patch16_384", ref_feat_shape=(8, 8), attn_pool_num_heads=2, **arguments)


@dataclass(frozen=True)
class TimmCase(Case):
    """timm has its own switch between PyTorch's attention and its own, and no other implementation."""

    def build(self, attn_implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> nn.Module:
        model = super().build("sdpa", dtype)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = attn_implementation == "sdpa"
        return model


def _cases() -> list[Case]:
    from transformers import TimmWrapperForImageClassification, TimmWrapperModel

    first = TimmCase(
        TimmWrapperForImageClassification, timm_config, pixel_values, reads_every_token=True, shows_attentions=False
    )
    variants = {
        "Distilled": partial(timm_config, "deit_tiny_distilled_patch16_224"),
        "Registers": partial(timm_config, "vit_small_patch14_reg4_dinov2"),
        "RegistersMean": partial(timm_config, "vit_medium_patch16_reg4_gap_256"),
        "Mean": partial(timm_config, "vit_base_patch16_clip_224", global_pool="avg"),
        "MeanOfAll": partial(timm_config, global_pool="avg", pool_include_prefix=True, fc_norm=False),
        "Siglip": partial(timm_config, "vit_base_patch16_siglip_224"),
        "Norms": partial(timm_config, qk_norm=True, scale_attn_norm=True, scale_mlp_norm=True, init_values=0.5),
        "Eva02": partial(timm_config, "eva02_tiny_patch14_224", ref_feat_shape=(8, 8)),
        "Dinov3": partial(timm_config, "vit_small_patch16_dinov3"),
        "MixedRope": partial(timm_config, "vit_small_patch16_dinov3", rope_type="mixed", rope_rotate_half=False),
        "Perception": perception,
        "PerceptionSpatial": partial(timm_config, "vit_pe_spatial_tiny_patch16_512", ref_feat_shape=(8, 8)),
        "FewerKeys": partial(perception, qkv_fused=False, num_kv_heads=1),
        "SwiGLU": partial(timm_config, "vit_giant_patch14_dinov2", mlp_ratio=2.0),
    }
    others = [replace(first, config=config, variant=name) for name, config in variants.items()]
    return [first, replace(first, model_class=TimmWrapperModel), *others]


CASES = _cases() if is_timm_available() else []
