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

"""timm's `Eva`: EVA, EVA-02, Perception Encoder and timm's DINOv3, with rotary embeddings for the patches and none for
the prefix.

Keys are compared as they are before the rotation (docs/rotary.md). A merged patch keeps the place of the one that
survived.
"""

from __future__ import annotations

import torch
from timm.layers import attention
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models import eva

from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from .timm import SETTINGS, TimmStyleAttention, refuses_others


class RotaryAttention(TimmStyleAttention):
    def forward(self, x, rope=None, attn_mask=None, is_causal=False, **kwargs):
        if self.qkv is None:
            projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        else:
            projected = self.packed(x).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in projected)
        query, key = (self.rotated(part, rope, value) for part in (self.q_norm(query), self.k_norm(key)))
        groups = query.shape[1] // key.shape[1]  # heads for each of the keys
        if groups > 1:
            key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        return self.attended(x, query, key, value, attn_mask, kwargs)

    def packed(self, x):
        return self.qkv(x)

    def rotated(self, tokens, rope, value):
        if rope is None:
            return tokens
        if isinstance(rope, tuple):  # of all tokens that are left, as `cut_rope` makes it
            return apply_rot_embed_cat(tokens, rope[0], half=self.rotate_half).type_as(value)
        number = self.num_prefix_tokens
        patches = apply_rot_embed_cat(tokens[:, :, number:], rope, half=self.rotate_half)
        return torch.cat([tokens[:, :, :number], patches], dim=2).type_as(value)


class AttentionRope(RotaryAttention, attention.AttentionRope):
    pass


class EvaAttention(RotaryAttention, eva.EvaAttention):
    def packed(self, x):
        packed = self.qkv(x)
        if self.q_bias is not None:  # the keys have none, so the layer has no bias of its own
            packed = packed + torch.cat((self.q_bias, self.k_bias, self.v_bias))
        return packed


class EvaBlock(MergingLayer, eva.EvaBlock):
    passes_kwargs = False

    def compared_keys(self, keys, rope=None, **kwargs):
        return self.attn.rotated(keys, turned_back(rope), keys)

    def attention_half(self, x, rope=None, **kwargs):
        output = self.attn(self.norm1(x), rope=rope, **kwargs)
        return x + self.drop_path1(output if self.gamma_1 is None else self.gamma_1 * output)

    def mlp_half(self, x):
        output = self.mlp(self.norm2(x))
        return x + self.drop_path2(output if self.gamma_2 is None else self.gamma_2 * output)


def turned_back(rope):
    """What turns by the same angles the other way."""
    if rope is None or isinstance(rope, tuple):
        return rope and (turned_back(rope[0]),)
    sines, cosines = rope.chunk(2, dim=-1)
    return torch.cat([-sines, cosines], dim=-1)


def cut_rope(rope, tokens):
    """Sines and cosines of the patches, `(N, d)`, `(heads, N, d)` or `(B, heads or 1, N, d)`, to those of the tokens
    that are left, `(B, heads or 1, n, d)` in a tuple.

    The prefix is among them and turns by no angle: a length that a compiler does not know would become another one if
    it were split and joined again.
    """
    rope = rope[(None,) * (4 - rope.dim())]
    prefix = rope.new_zeros(*rope.shape[:2], tokens.rows.shape[1] - rope.shape[2], rope.shape[3])
    prefix[..., rope.shape[3] // 2 :] = 1.0  # sines come first
    rope = torch.cat([prefix, rope], dim=2).expand(tokens.positions.shape[0], -1, -1, -1)
    places = tokens.positions[:, None, :, None].expand(-1, rope.shape[1], -1, rope.shape[3])
    return (rope.gather(2, places),)


register_architecture(
    eva.Eva,
    EvaBlock,
    attention_class=(EvaAttention, AttentionRope),
    token_arguments={"rope": cut_rope},
    refuses=refuses_others(eva.EvaBlock, eva.EvaAttention, attention.AttentionRope),
    **SETTINGS,
)
