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

"""VideoMAE: ViT on the tubes of a clip, without a CLS token."""

from __future__ import annotations

from transformers.models.videomae import modeling_videomae

from ..modeling.attention import MergingAttention
from ..modeling.registry import register_architecture
from .vit import SplitViTLayer, num_patches


class VideoMAESelfAttention(MergingAttention, modeling_videomae.VideoMAESelfAttention):
    """The original takes no keyword arguments."""

    def forward(self, hidden_states=None, **kwargs):
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout_prob if self.training else 0.0
        output, weights = self.attend(query, key, value, None, kwargs, scaling=self.scaling, dropout=dropout)
        return output.flatten(2), weights


class VideoMAELayer(SplitViTLayer, modeling_videomae.VideoMAELayer):
    pass


# The model around the encoder keeps its keyword arguments from it.
register_architecture(
    modeling_videomae.VideoMAEEncoder,
    VideoMAELayer,
    layers="layer",
    attention="attention.attention",
    attention_class=VideoMAESelfAttention,
    num_prefix_tokens=0,
    num_tokens=lambda config: num_patches(config) * (config.num_frames // config.tubelet_size),
)
