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

"""Encoders of clips."""

import torch
import transformers
from transformers import VideoMAEConfig, VivitConfig, VJEPA2Config

from zoo import Case
from zoo.vit import SIZES


FRAMES = 4
TINY = {**SIZES, "num_hidden_layers": 3, "image_size": 16, "num_frames": FRAMES}


def clip(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(batch_size, FRAMES, 3, 16, 16, generator=generator)}


def with_masked_tubes(batch_size: int) -> dict[str, torch.Tensor]:
    mask = (torch.arange(32) % 4 == 1).expand(batch_size, -1)
    return {**clip(batch_size), "bool_masked_pos": mask}


def vivit_config():
    return VivitConfig(**{name: value for name, value in TINY.items() if name != "patch_size"}, tubelet_size=[2, 4, 4])


def videomae_config():
    decoder = {"decoder_num_attention_heads": 2, "decoder_hidden_size": 16, "decoder_intermediate_size": 32}
    return VideoMAEConfig(**TINY, **decoder, decoder_num_hidden_layers=1)


def vjepa2_config():
    sizes = {name: TINY[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")}
    predictor = {"pred_hidden_size": 32, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    pooler = {"num_pooler_layers": 1}
    return VJEPA2Config(
        **sizes, **predictor, **pooler, crop_size=16, frames_per_clip=FRAMES, pred_num_mask_tokens=2, num_labels=3
    )


def jepa_clip(batch_size: int) -> dict[str, torch.Tensor]:
    return {"pixel_values_videos": clip(batch_size)["pixel_values"]}


_CONFIGS = {
    "VivitModel": (vivit_config, clip),
    "VivitForVideoClassification": (vivit_config, clip),
    "VideoMAEModel": (videomae_config, clip),
    "VideoMAEForVideoClassification": (videomae_config, clip),
    "VideoMAEForPreTraining": (videomae_config, with_masked_tubes),
    "VJEPA2Model": (vjepa2_config, jepa_clip),
    "VJEPA2ForVideoClassification": (vjepa2_config, jepa_clip),
}

CASES = [
    Case(
        getattr(transformers, name),
        config,
        inputs,
        reads_every_token=name.endswith("ForPreTraining") or name.startswith("VJEPA2"),
        of_batch=("loss",) if name.endswith("ForPreTraining") else (),
    )
    for name, (config, inputs) in _CONFIGS.items()
]
