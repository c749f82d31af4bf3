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

"""CLIP's vision tower. The text tower shares its encoder and layer classes, but it is causal and pools at EOS."""

from __future__ import annotations

from torch import nn
from transformers.models.clip import modeling_clip

from ..modeling.layer import MergingLayer
from ..modeling.registry import refuse_architecture, register_architecture
from .vit import num_patches


class CLIPStyleLayer(MergingLayer):
    """Pre-norm layers with the sub-modules of CLIP, which SigLIP, BLIP and BLIP-2 kept."""

    def attention_half(self, hidden_states, *args, **kwargs):
        attention_output, _ = self.self_attn(self.layer_norm1(hidden_states), *args, **kwargs)
        return hidden_states + attention_output

    def mlp_half(self, hidden_states):
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class CLIPEncoderLayer(CLIPStyleLayer, modeling_clip.CLIPEncoderLayer):
    pass


def official_clip(index: int, num_layers: int) -> dict:
    """CLIP in the released code: hidden states after the attention, no proportional attention."""
    return {
        "energy": "elu",
        "metric": "hidden_states",
        "margin": 0.95 - 0.95 * index / num_layers,
        "proportional_attention": False,
    }


#: Of towers with the sub-modules of CLIP and its class token.
CLIP_SETTINGS = {
    "layers": "encoder.layers",
    "attention": "self_attn",
    "num_prefix_tokens": 1,
    "num_tokens": lambda config: 1 + num_patches(config),
}


def refuse_causal(text_tower: type[nn.Module], name: str) -> None:
    """Of CLIP and its relatives."""
    reason = f"{name}'s text tower is causal and pools at the position of the EOS token, which merging would move"
    refuse_architecture(text_tower, part="text", reason=reason)


register_architecture(modeling_clip.CLIPVisionModel, CLIPEncoderLayer, **CLIP_SETTINGS, official=official_clip)
refuse_causal(modeling_clip.CLIPTextModel, "CLIP")
