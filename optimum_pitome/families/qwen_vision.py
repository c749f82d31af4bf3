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

"""The vision towers of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: the patches of all images in one sequence.

What follows a layer (the merger of 2 x 2 neighbours, DeepStack's features) gets every patch back. In Qwen2.5-VL, where
most layers attend in windows, patches merge with those of their window; layers that attend to whole images still do.
Keys are compared as before the rotation. A merged patch keeps the place of the one that survived.
"""

from __future__ import annotations

from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe
from transformers.vision_utils import get_vision_window_index

from ..modeling.layer import RotaryLayer
from ..modeling.packed import CELLS_KEY, PackedAttention, PackedLayer
from ..modeling.registry import register_architecture
from ..modeling.token_arguments import cut_rotary


class QwenVisionStyleAttention(PackedAttention):
    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, max_seqlen=None, **kwargs):
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        query, key = modeling_qwen2_vl.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (values.transpose(1, 2) for values in (query, key, value))
        output, weights = self.attend_packed(query, key, value, cu_seqlens, kwargs, scaling=self.scaling)
        return self.proj(output.flatten(2)), weights


class QwenVisionStyleBlock(PackedLayer, RotaryLayer):
    def attention_half(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs):
        attended = self.attn(
            self.norm1(hidden_states), cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **kwargs
        )
        return hidden_states + (attended[0] if isinstance(attended, tuple) else attended)

    def mlp_half(self, hidden_states):
        return hidden_states + self.mlp(self.norm2(hidden_states))


class VisionAttention(QwenVisionStyleAttention, modeling_qwen2_vl.VisionAttention):
    pass


class Qwen2VLVisionBlock(QwenVisionStyleBlock, modeling_qwen2_vl.Qwen2VLVisionBlock):
    pass


class Qwen2_5_VLVisionAttention(QwenVisionStyleAttention, modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention):
    pass


class Qwen2_5_VLVisionBlock(QwenVisionStyleBlock, modeling_qwen2_5_vl.Qwen2_5_VLVisionBlock):
    pass


class Qwen3VLVisionAttention(QwenVisionStyleAttention, modeling_qwen3_vl.Qwen3VLVisionAttention):
    pass


class Qwen3VLVisionBlock(QwenVisionStyleBlock, modeling_qwen3_vl.Qwen3VLVisionBlock):
    pass


class Qwen3VLMoeVisionAttention(QwenVisionStyleAttention, modeling_qwen3_vl_moe.Qwen3VLMoeVisionAttention):
    pass


class Qwen3VLMoeVisionBlock(QwenVisionStyleBlock, modeling_qwen3_vl_moe.Qwen3VLMoeVisionBlock):
    pass


class Qwen3_5VisionAttention(QwenVisionStyleAttention, modeling_qwen3_5.Qwen3_5VisionAttention):
    pass


class Qwen3_5VisionBlock(QwenVisionStyleBlock, modeling_qwen3_5.Qwen3_5VisionBlock):
    pass


def run_in_windows(encoder, hidden_states, grid_thw, **kwargs):
    """Tells the layers where the windows begin, those that attend to whole images, too."""
    index, begins = get_vision_window_index(
        grid_thw, encoder.spatial_merge_size, encoder.window_size, encoder.patch_size, kwargs=kwargs
    )
    windows = {"window_index": index, "cu_window_seqlens": begins, CELLS_KEY: begins}
    return type(encoder).forward(encoder, hidden_states, grid_thw, **windows, **kwargs)


#: Images have the size that they have. Operations are counted for one of so many pixels in each direction.
_SIDE = 448

for encoder_class, layer_class, attention_class, models, settings in (
    (
        modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel,
        Qwen2VLVisionBlock,
        VisionAttention,
        "Qwen2VL",
        {"width": lambda config: config.embed_dim},
    ),
    (
        modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel,
        Qwen2_5_VLVisionBlock,
        Qwen2_5_VLVisionAttention,
        "Qwen2_5_VL",
        {"forward": run_in_windows},
    ),
    (modeling_qwen3_vl.Qwen3VLVisionModel, Qwen3VLVisionBlock, Qwen3VLVisionAttention, "Qwen3VL", {}),
    (modeling_qwen3_vl_moe.Qwen3VLMoeVisionModel, Qwen3VLMoeVisionBlock, Qwen3VLMoeVisionAttention, "Qwen3VLMoe", {}),
    (modeling_qwen3_5.Qwen3_5VisionModel, Qwen3_5VisionBlock, Qwen3_5VisionAttention, "Qwen3_5", {}),
):
    register_architecture(
        encoder_class,
        layer_class,
        layers="blocks",
        attention="attn",
        attention_class=attention_class,
        token_arguments={"position_embeddings": cut_rotary, "cu_seqlens": None},
        num_prefix_tokens=0,
        untraceable="how its images lie in the sequence is read from numbers in its inputs, and decides shapes",
        num_tokens=lambda config: (_SIDE // config.patch_size) ** 2,
        any_length=True,
        read_whole=(encoder_class.__name__, f"{models}Model", f"{models}ForConditionalGeneration"),
        **settings,
    )
