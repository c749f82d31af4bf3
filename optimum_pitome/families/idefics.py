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

"""The vision towers of Idefics2, Idefics3 and SmolVLM: SigLIP on images that may be padded, without a class token.

What reads them shuffles the grid of patches, or pools it by the mask of its padding, and so gets every patch back.
"""

from __future__ import annotations

from transformers.modeling_outputs import BaseModelOutput
from transformers.models.idefics2 import modeling_idefics2
from transformers.models.idefics3 import modeling_idefics3
from transformers.models.smolvlm import modeling_smolvlm

from ..modeling.registry import register_architecture
from .clip import CLIPStyleLayer
from .siglip import SiglipStyleAttention
from .vit import num_patches


class Idefics2VisionAttention(SiglipStyleAttention, modeling_idefics2.Idefics2VisionAttention):
    pass


class Idefics3VisionAttention(SiglipStyleAttention, modeling_idefics3.Idefics3VisionAttention):
    pass


class SmolVLMVisionAttention(SiglipStyleAttention, modeling_smolvlm.SmolVLMVisionAttention):
    pass


class Idefics2EncoderLayer(CLIPStyleLayer, modeling_idefics2.Idefics2EncoderLayer):
    pass


class Idefics3EncoderLayer(CLIPStyleLayer, modeling_idefics3.Idefics3EncoderLayer):
    pass


class SmolVLMEncoderLayer(CLIPStyleLayer, modeling_smolvlm.SmolVLMEncoderLayer):
    pass


def run_layers(encoder, inputs_embeds, attention_mask=None, **kwargs):
    """The originals keep keyword arguments from the layers."""
    for layer in encoder.layers:
        inputs_embeds = layer(inputs_embeds, attention_mask, **kwargs)
    return BaseModelOutput(last_hidden_state=inputs_embeds)


for encoder_class, layer_class, attention_class, name in (
    (modeling_idefics2.Idefics2Encoder, Idefics2EncoderLayer, Idefics2VisionAttention, "Idefics2"),
    (modeling_idefics3.Idefics3Encoder, Idefics3EncoderLayer, Idefics3VisionAttention, "Idefics3"),
    (modeling_smolvlm.SmolVLMEncoder, SmolVLMEncoderLayer, SmolVLMVisionAttention, "SmolVLM"),
):
    register_architecture(
        encoder_class,
        layer_class,
        attention="self_attn",
        attention_class=attention_class,
        num_prefix_tokens=0,
        num_tokens=num_patches,
        forward=run_layers,
        read_whole=(f"{name}Model", f"{name}ForConditionalGeneration"),
    )
