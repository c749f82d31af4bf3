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

"""DINOv3: rotary embeddings for the patches, none for the prefix (CLS and registers).

Keys are compared as they are before the rotation. A merged patch keeps the place of the one that survived.
"""

from __future__ import annotations

from transformers.models.dinov3_vit import modeling_dinov3_vit

from ..modeling.layer import RotaryLayer
from ..modeling.registry import register_architecture
from ..modeling.token_arguments import cut_rotary
from .dinov2 import Dinov2StyleLayer
from .vit import num_patches, official_deit


class DINOv3ViTLayer(RotaryLayer, Dinov2StyleLayer, modeling_dinov3_vit.DINOv3ViTLayer):
    pass


register_architecture(
    modeling_dinov3_vit.DINOv3ViTEncoder,
    DINOv3ViTLayer,
    layers="layer",
    num_prefix_tokens=lambda config: 1 + config.num_register_tokens,
    num_tokens=lambda config: 1 + config.num_register_tokens + num_patches(config),
    token_arguments={"position_embeddings": cut_rotary},
    official=official_deit,
)
