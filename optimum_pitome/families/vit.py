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

"""ViT, DeiT and ViT-MSN: pre-norm layers with the same sub-modules under the same names."""

from __future__ import annotations

from transformers.models.deit import modeling_deit
from transformers.models.vit import modeling_vit
from transformers.models.vit_msn import modeling_vit_msn

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture


class ViTStyleLayer(MergingLayer):
    """Layers with the sub-modules of ViT."""

    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        attention_output, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        return self.dropout(attention_output) + hidden_states

    def mlp_half(self, hidden_states):
        return self.dropout(self.mlp(self.layernorm_after(hidden_states))) + hidden_states


class ViTLayer(ViTStyleLayer, modeling_vit.ViTLayer):
    pass


class DeiTLayer(ViTStyleLayer, modeling_deit.DeiTLayer):
    pass


class ViTMSNLayer(ViTStyleLayer, modeling_vit_msn.ViTMSNLayer):
    pass


class SplitViTLayer(MergingLayer):
    """Layers with the sub-modules that ViT had before transformers 5.9: the output of each half is a module."""

    def attention_half(self, hidden_states, **kwargs):
        return self.attention(self.layernorm_before(hidden_states), **kwargs) + hidden_states

    def mlp_half(self, hidden_states):
        return self.output(self.intermediate(self.layernorm_after(hidden_states)), hidden_states)


def num_patches(config) -> int:
    """Patches of an image of the configured size."""
    size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
    patch = config.patch_size if isinstance(config.patch_size, (list, tuple)) else (config.patch_size,) * 2
    return (size[0] // patch[0]) * (size[1] // patch[1])


def official_deit(index: int, num_layers: int) -> dict:
    """timm DeiT in the released code: first half without protection, no proportional attention (paper.md's table)."""
    return {
        "algorithm": "pitome_unprotected" if index < num_layers // 2 else "pitome",
        "energy": "elu",
        "metric": "keys",
        "margin": 0.75 - 0.75 * index / num_layers,
        "proportional_attention": False,
    }


_SETTINGS = {
    "num_prefix_tokens": 1,
    "num_tokens": lambda config: 1 + num_patches(config),
    "official": official_deit,
}

register_architecture(modeling_vit.ViTModel, ViTLayer, **_SETTINGS)
register_architecture(modeling_vit_msn.ViTMSNModel, ViTMSNLayer, **_SETTINGS)
register_architecture(
    modeling_deit.DeiTModel,
    DeiTLayer,
    num_prefix_tokens=2,  # CLS and distillation
    num_tokens=lambda config: 2 + num_patches(config),
    official=official_deit,
)
