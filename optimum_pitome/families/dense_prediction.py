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

"""The ViTs of YOLOS (detection), ViTPose and DPT: whatever reads them gets every patch back."""

from __future__ import annotations

from transformers.modeling_outputs import BaseModelOutput
from transformers.models.dpt import modeling_dpt
from transformers.models.vitpose_backbone import modeling_vitpose_backbone
from transformers.models.yolos import modeling_yolos

from ..modeling.registry import register_architecture
from .vit import SplitViTLayer, num_patches


class YolosLayer(SplitViTLayer, modeling_yolos.YolosLayer):
    pass


class DPTViTLayer(SplitViTLayer, modeling_dpt.DPTViTLayer):
    pass


class VitPoseBackboneLayer(SplitViTLayer, modeling_vitpose_backbone.VitPoseBackboneLayer):
    def attention_half(self, hidden_states, dataset_index=None, **kwargs):
        return super().attention_half(hidden_states, **kwargs)

    def mlp_half(self, hidden_states):
        return self.mlp(self.layernorm_after(hidden_states)) + hidden_states


def run_layers(encoder, hidden_states, *args, **kwargs):
    """The originals pass no keyword arguments on to the layers. YOLOS gets the size of the image beside the tokens."""
    kwargs = {name: value for name, value in kwargs.items() if name not in ("height", "width")}
    for layer in encoder.layer:
        hidden_states = layer(hidden_states, **kwargs)
    return BaseModelOutput(last_hidden_state=hidden_states)


def refuses_positions_between_layers(encoder) -> str | None:
    if encoder.config.use_mid_position_embeddings:
        return "YOLOS adds position embeddings between its layers here (use_mid_position_embeddings), one per patch"
    return None


def refuses_experts(encoder) -> str | None:
    if encoder.config.num_experts > 1:
        return "ViTPose with experts (num_experts > 1) chooses them in the half of a layer after the merge"
    return None


_SETTINGS = {"layers": "layer", "attention": "attention.attention"}

register_architecture(
    modeling_yolos.YolosEncoder,
    YolosLayer,
    num_prefix_tokens=1,
    num_suffix_tokens=lambda config: config.num_detection_tokens,
    num_tokens=lambda config: 1 + num_patches(config) + config.num_detection_tokens,
    forward=run_layers,
    refuses=refuses_positions_between_layers,
    read_whole=("YolosModel",),
    **_SETTINGS,
)
register_architecture(
    modeling_dpt.DPTViTEncoder,
    DPTViTLayer,
    num_prefix_tokens=1,
    num_tokens=lambda config: 1 + num_patches(config),
    forward=run_layers,
    read_whole=("DPTForDepthEstimation", "DPTForSemanticSegmentation"),
    **_SETTINGS,
)
register_architecture(
    modeling_vitpose_backbone.VitPoseBackboneEncoder,
    VitPoseBackboneLayer,
    num_prefix_tokens=0,
    num_tokens=num_patches,
    refuses=refuses_experts,
    **_SETTINGS,
)
