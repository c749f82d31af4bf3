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

"""DINOv2, with and without registers."""

from __future__ import annotations

from transformers.models.dinov2 import modeling_dinov2
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from .vit import num_patches, official_deit


class Dinov2StyleLayer(MergingLayer):
    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        attention_output, _ = self.attention(self.norm1(hidden_states), attention_mask=attention_mask, **kwargs)
        return self.drop_path(self.layer_scale1(attention_output)) + hidden_states

    def mlp_half(self, hidden_states):
        return self.drop_path(self.layer_scale2(self.mlp(self.norm2(hidden_states)))) + hidden_states


class Dinov2Layer(Dinov2StyleLayer, modeling_dinov2.Dinov2Layer):
    pass


class Dinov2WithRegistersLayer(Dinov2StyleLayer, modeling_dinov2_with_registers.Dinov2WithRegistersLayer):
    pass


register_architecture(
    modeling_dinov2.Dinov2Encoder,
    Dinov2Layer,
    layers="layer",
    num_prefix_tokens=1,
    num_tokens=lambda config: 1 + num_patches(config),
    official=official_deit,
)
register_architecture(
    modeling_dinov2_with_registers.Dinov2WithRegistersEncoder,
    Dinov2WithRegistersLayer,
    layers="layer",
    num_prefix_tokens=lambda config: 1 + config.num_register_tokens,
    num_tokens=lambda config: 1 + config.num_register_tokens + num_patches(config),
    official=official_deit,
)
