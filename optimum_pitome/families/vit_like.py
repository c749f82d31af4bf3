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

"""Copies of ViT under other names: I-JEPA, ViT-MAE's encoder, Pixio, ViViT (video) and AST (audio)."""

from __future__ import annotations

from transformers.models.audio_spectrogram_transformer import modeling_audio_spectrogram_transformer as modeling_ast
from transformers.models.ijepa import modeling_ijepa
from transformers.models.pixio import modeling_pixio
from transformers.models.vit_mae import modeling_vit_mae
from transformers.models.vivit import modeling_vivit

from ..modeling.registry import register_architecture
from .vit import ViTStyleLayer, num_patches


class IJepaLayer(ViTStyleLayer, modeling_ijepa.IJepaLayer):
    pass


class ViTMAELayer(ViTStyleLayer, modeling_vit_mae.ViTMAELayer):
    pass


class VivitLayer(ViTStyleLayer, modeling_vivit.VivitLayer):
    pass


class ASTLayer(ViTStyleLayer, modeling_ast.ASTLayer):
    pass


class PixioLayer(ViTStyleLayer, modeling_pixio.PixioLayer):
    def attention_half(self, hidden_states, attention_mask=None, **kwargs):
        attention_output, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        return self.drop_path(self.dropout(attention_output)) + hidden_states

    def mlp_half(self, hidden_states):
        return self.drop_path(self.dropout(self.mlp(self.layernorm_after(hidden_states)))) + hidden_states


def num_tubes(config) -> int:
    """Blocks of so many frames and pixels that a clip of the configured size is cut into."""
    frames, height, width = config.tubelet_size
    size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
    return (config.num_frames // frames) * (size[0] // height) * (size[1] // width)


def num_spectrogram_patches(config) -> int:
    """Patches of a spectrogram, which overlap: `(frequency, time)`."""
    frequencies = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    return frequencies * ((config.max_length - config.patch_size) // config.time_stride + 1)


register_architecture(modeling_ijepa.IJepaModel, IJepaLayer, num_prefix_tokens=0, num_tokens=num_patches)
register_architecture(
    modeling_vit_mae.ViTMAEModel,
    ViTMAELayer,
    num_prefix_tokens=1,
    num_tokens=lambda config: 1 + int(num_patches(config) * (1 - config.mask_ratio)),  # the others are masked
)
register_architecture(
    modeling_pixio.PixioModel,
    PixioLayer,
    num_prefix_tokens=lambda config: config.n_cls_tokens,
    num_tokens=lambda config: config.n_cls_tokens + num_patches(config),
)
register_architecture(
    modeling_vivit.VivitModel, VivitLayer, num_prefix_tokens=1, num_tokens=lambda config: 1 + num_tubes(config)
)
register_architecture(
    modeling_ast.ASTModel,
    ASTLayer,
    part="audio",
    num_prefix_tokens=2,  # CLS and distillation
    num_tokens=lambda config: 2 + num_spectrogram_patches(config),
)
