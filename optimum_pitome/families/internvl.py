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

"""InternVL's vision tower. The projector after it shuffles the grid of patches, and so gets every patch back."""

from __future__ import annotations

from transformers.modeling_outputs import BaseModelOutput
from transformers.models.internvl import modeling_internvl

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from .vit import num_patches


class InternVLVisionLayer(MergingLayer, modeling_internvl.InternVLVisionLayer):
    passes_kwargs = False

    def attention_half(self, hidden_states, **kwargs):
        attention_output, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        return self.lambda_1 * attention_output + hidden_states

    def mlp_half(self, hidden_states):
        return self.lambda_2 * self.dropout(self.mlp(self.layernorm_after(hidden_states))) + hidden_states


def run_layers(encoder, hidden_states, **kwargs):
    """The original keeps keyword arguments from the layers."""
    for layer in encoder.layer:
        hidden_states = layer(hidden_states, **kwargs)
    return BaseModelOutput(last_hidden_state=hidden_states)


register_architecture(
    modeling_internvl.InternVLVisionEncoder,
    InternVLVisionLayer,
    layers="layer",
    num_prefix_tokens=1,
    num_tokens=lambda config: 1 + num_patches(config),
    forward=run_layers,
    read_whole=("InternVLModel", "InternVLForConditionalGeneration"),
)
