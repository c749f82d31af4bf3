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

"""SigLIP 2 with images of any shape (NaFlex): SigLIP's layers on padded patches. (Of a fixed size it is a SigLIP.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.siglip2 import modeling_siglip2

from ..modeling.registry import refuse_architecture, register_architecture
from .clip import CLIPStyleLayer
from .siglip import SiglipStyleAttention


class Siglip2Attention(SiglipStyleAttention, modeling_siglip2.Siglip2Attention):
    pass


class Siglip2EncoderLayer(CLIPStyleLayer, modeling_siglip2.Siglip2EncoderLayer):
    pass


def read_pixel_mask(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the tower, with the mask of its patches under the name that masks have elsewhere."""
    return {"attention_mask": arguments.get("pixel_attention_mask")}


register_architecture(
    modeling_siglip2.Siglip2VisionModel,
    Siglip2EncoderLayer,
    layers="encoder.layers",
    attention="self_attn",
    attention_class=Siglip2Attention,
    num_prefix_tokens=0,
    num_tokens=lambda config: config.num_patches,
    read_arguments=read_pixel_mask,
    read_whole=("Siglip2ForImageClassification",),  # a mean by the same mask
    full_length_at="encoder",  # the pooling head knows no sizes, and the mask of the patches has their number
)
refuse_architecture(
    modeling_siglip2.Siglip2TextModel,
    part="text",
    reason="SigLIP 2's text tower pools at the last position, which merging would move",
)
