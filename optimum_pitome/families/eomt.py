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

"""EoMT on DINOv2 and on DINOv3: a ViT, whose last layers get queries beside the patches.

Patches merge in the layers before those. The queries look at the whole grid, and so do the masks that are made of it.
"""

from __future__ import annotations

from transformers.models.eomt import modeling_eomt
from transformers.models.eomt_dinov3 import modeling_eomt_dinov3

from ..modeling.full_length import FullLengthLayer, run_with_state
from ..modeling.registry import register_architecture
from ..modeling.token_arguments import cut_rotary
from .dinov2 import Dinov2StyleLayer
from .siglip import SiglipStyleAttention
from .vit import num_patches


class EomtAttention(SiglipStyleAttention, modeling_eomt.EomtAttention):
    pass


class EomtLayer(FullLengthLayer, Dinov2StyleLayer, modeling_eomt.EomtLayer):
    passes_kwargs = False  # before transformers 5.24


class EomtDinov3Layer(FullLengthLayer, Dinov2StyleLayer, modeling_eomt_dinov3.EomtDinov3Layer):
    pass


_SETTINGS = {
    "layers": "layers",
    "num_layers": lambda config: config.num_hidden_layers - config.num_blocks,
    "num_prefix_tokens": lambda config: 1 + config.num_register_tokens,
    "num_tokens": lambda config: 1 + config.num_register_tokens + num_patches(config),
    "forward": run_with_state,
    "untraceable": "which of its masks its last layers apply is read from numbers among its weights",
    "read_whole": ("EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation"),
}

register_architecture(
    modeling_eomt.EomtForUniversalSegmentation, EomtLayer, attention_class=EomtAttention, **_SETTINGS
)
register_architecture(
    modeling_eomt_dinov3.EomtDinov3ForUniversalSegmentation,
    EomtDinov3Layer,
    token_arguments={"position_embeddings": cut_rotary},
    **_SETTINGS,
)
