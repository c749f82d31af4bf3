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

"""Copies of ViT under other names, and the ViTs of YOLOS, ViTPose and DPT."""

import torch
import transformers
from transformers import (
    DPTConfig,
    IJepaConfig,
    PixioConfig,
    ViTMAEConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    YolosConfig,
)

from zoo import Case
from zoo.depth import positive_depth
from zoo.vit import SIZES, pixel_values


TINY = {**SIZES, "num_hidden_layers": 3}
STAGES = ["stage1", "stage3"]


def ijepa_config():
    return IJepaConfig(**TINY)


def vit_mae_config():
    decoder = {"decoder_num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_intermediate_size": 32}
    return ViTMAEConfig(**TINY, **decoder, decoder_num_hidden_layers=1, mask_ratio=0.5)


def pixio_config():
    decoder = {"decoder_num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_intermediate_size": 32}
    return PixioConfig(**TINY, **decoder, n_cls_tokens=3, out_features=STAGES)


def yolos_config():
    tiny = {**TINY, "image_size": [32, 32]}
    return YolosConfig(**tiny, num_detection_tokens=5, use_mid_position_embeddings=False)


def vitpose_backbone_config():
    tiny = {name: value for name, value in TINY.items() if name not in ("num_labels", "intermediate_size")}
    sizes = {"image_size": [48, 32], "patch_size": [8, 8], "mlp_ratio": 2}
    return VitPoseBackboneConfig(**{**tiny, **sizes}, out_features=["stage3"], num_labels=3)


def vitpose_config():
    return VitPoseConfig(backbone_config=vitpose_backbone_config(), num_labels=3, scale_factor=2)


def dpt_config():
    return DPTConfig(
        **{**TINY, "num_hidden_layers": 4},
        is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8,
        semantic_classifier_dropout=0.0,
    )


def tall_pixel_values(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(batch_size, 3, 48, 32, generator=generator)}


def with_noise(batch_size: int) -> dict[str, torch.Tensor]:
    """Which patches are masked."""
    noise = torch.rand(batch_size, 64, generator=torch.Generator().manual_seed(2))
    return {**pixel_values(batch_size), "noise": noise}


def equal_norms(model):
    """Dense, too, `from_pretrained` takes one of a PixioBackbone's two last norms for the other."""
    model.layernorm.load_state_dict(model.pixio.layernorm.state_dict())


_PREPARE = {"DPTForDepthEstimation": positive_depth, "PixioBackbone": equal_norms}
_CONFIGS = {
    "IJepaModel": (ijepa_config, pixel_values),
    "IJepaForImageClassification": (ijepa_config, pixel_values),
    "ViTMAEModel": (vit_mae_config, with_noise),
    "ViTMAEForPreTraining": (vit_mae_config, with_noise),
    "PixioModel": (pixio_config, pixel_values),
    "PixioBackbone": (pixio_config, pixel_values),
    "YolosModel": (yolos_config, pixel_values),
    "YolosForObjectDetection": (yolos_config, pixel_values),
    "VitPoseBackbone": (vitpose_backbone_config, tall_pixel_values),
    "VitPoseForPoseEstimation": (vitpose_config, tall_pixel_values),
    "DPTModel": (dpt_config, pixel_values),
    "DPTForDepthEstimation": (dpt_config, pixel_values),
    "DPTForSemanticSegmentation": (dpt_config, pixel_values),
}
_EVERY_TOKEN = ("Backbone", "ForPreTraining", "ForPoseEstimation", "ForDepthEstimation", "ForSemanticSegmentation")


CASES = [
    Case(
        getattr(transformers, name),
        config,
        inputs,
        prepare=_PREPARE.get(name),
        reads_every_token=name.endswith(_EVERY_TOKEN) or name.startswith("Yolos"),
        encoder_config="backbone_config" if name == "VitPoseForPoseEstimation" else "",
        of_batch=("loss",) if name == "ViTMAEForPreTraining" else (),
        variant="WithItsOwnViT" if name == "DPTForDepthEstimation" else "",
    )
    for name, (config, inputs) in _CONFIGS.items()
]
