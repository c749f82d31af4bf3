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

"""timm's `VisionTransformer`, alone or in transformers' `timm_wrapper` and `timm_backbone`: ViT, DeiT, DINOv2, CLIP's
and SigLIP's towers.

timm's own methods pass nothing on to the blocks but masks, so those that run blocks have a twin here for forwards that
merge. Heads pool tokens after that, so all of them come back first: a mean is then the mean by sizes.
"""

from __future__ import annotations

from types import SimpleNamespace

from timm.layers import attention
from timm.models import vision_transformer
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint

from ..modeling.attention import MergingAttention
from ..modeling.layer import MergingLayer
from ..modeling.registry import register_architecture
from ..modeling.state import STATE_KEY
from .blip import eager_attention_forward
from .vit import num_patches, official_deit


class TimmStyleAttention(MergingAttention):
    """What follows the projections of timm's attentions, `(B, heads, n, head_dim)` each."""

    def attended(self, x, query, key, value, attn_mask, kwargs):
        output, _ = self.attend(
            query,
            key,
            value,
            attn_mask,
            kwargs,
            implementation="sdpa" if self.fused_attn else "eager",
            eager=eager_attention_forward,
            scaling=self.scale,
            dropout=self.attn_drop.p if self.training else 0.0,
        )
        output = self.norm(output.flatten(2))
        return self.proj_drop(self.proj(output if self.gate is None else output * self.gate(x).sigmoid()))


class Attention(TimmStyleAttention, attention.Attention):
    def forward(self, x, attn_mask=None, is_causal=False, **kwargs):
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.attended(x, self.q_norm(query), self.k_norm(key), value, attn_mask, kwargs)


class Block(MergingLayer, vision_transformer.Block):
    passes_kwargs = False

    def attention_half(self, x, **kwargs):
        return x + self.drop_path1(self.ls1(self.attn(self.norm1(x), **kwargs)))

    def mlp_half(self, x):
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def run_blocks(encoder, x, state, attn_mask=None, is_causal=False, taken=()):
    """What leaves the last block, still merged, and what leaves each of the blocks `taken`, at the original length."""
    if attn_mask is not None or is_causal:
        raise ValueError(
            f"{type(encoder).__name__} was given attn_mask or is_causal, which tokens that merge do not follow. Leave "
            "them out, or run the model dense: with pitome_disabled(model): ..."
        )
    x, ropes = encoder._pos_embed(encoder.patch_embed(x)), None
    if isinstance(x, tuple):  # with rotary embeddings, for all blocks or (`rope_mixed`) for each of them
        x, rope = x
        ropes = rope if getattr(encoder, "rope_mixed", False) else [rope] * len(encoder.blocks)
    else:
        x = encoder.patch_drop(x)
    x = encoder.norm_pre(x)
    found = []
    for index, block in enumerate(encoder.blocks):
        arguments = {STATE_KEY: state} if ropes is None else {STATE_KEY: state, "rope": ropes[index]}
        x = checkpoint(block, x, **arguments) if encoder.grad_checkpointing else block(x, **arguments)
        if index in taken:
            found.append(state.slots[index + 1].unmerge(x))
    return x, found


def forward_features(encoder, x, *masks, pitome_state, **named_masks):
    x, _ = run_blocks(encoder, x, pitome_state, *masks, **named_masks)
    return pitome_state.slots[-1].unmerge(encoder.norm(x))


def forward_intermediates(
    encoder,
    x,
    indices=None,
    return_prefix_tokens=False,
    norm=False,
    stop_early=False,
    output_fmt="NCHW",
    intermediates_only=False,
    *,
    output_dict=False,
    attn_mask=None,
    is_causal=False,
    pitome_state=None,
):
    taken, last = feature_take_indices(len(encoder.blocks), indices)
    if stop_early:
        pitome_state.num_run = last + 1
    height, width = encoder.patch_embed.dynamic_feat_size(x.shape[-2:])
    x, found = run_blocks(encoder, x, pitome_state, attn_mask, is_causal, taken)
    found = [encoder.norm(tokens) for tokens in found] if norm else found
    number = encoder.num_prefix_tokens
    prefixes, found = [tokens[:, :number] for tokens in found], [tokens[:, number:] for tokens in found]
    if output_fmt == "NCHW":
        found = [tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous() for tokens in found]
    whole = None if intermediates_only else pitome_state.slots[-1].unmerge(encoder.norm(x))
    if output_dict:
        named = {
            "image_intermediates": found,
            "image_intermediates_prefix": prefixes if number and return_prefix_tokens else None,
            "image_features": whole,
        }
        return {name: value for name, value in named.items() if value is not None}
    found = list(zip(found, prefixes)) if number and return_prefix_tokens else found
    return found if intermediates_only else (whole, found)


def read_config(encoder):
    """A `VisionTransformer` keeps its sizes in its modules."""
    return SimpleNamespace(
        hidden_size=encoder.embed_dim,
        num_attention_heads=encoder.blocks[0].attn.num_heads,
        has_class_token=encoder.cls_token is not None,
        num_prefix_tokens=encoder.num_prefix_tokens,
        image_size=encoder.patch_embed.img_size,
        patch_size=encoder.patch_embed.patch_size,
        num_channels=getattr(encoder, "in_chans", 3),
    )


def refuses_others(block_class, *attention_classes):
    """Says why blocks and attention of other classes cannot merge."""

    def refuses(encoder) -> str | None:
        block = next((block for block in encoder.blocks if not isinstance(block, block_class)), None)
        if block is not None:
            name = block_class.__name__
            return f"its blocks are {type(block).__name__}, and only those of the class {name} are cut in two here"
        found = next((block.attn for block in encoder.blocks if not isinstance(block.attn, attention_classes)), None)
        if found is not None:
            names = " and ".join(known.__name__ for known in attention_classes)
            return f"its attention is a {type(found).__name__}, and only {names} takes the sizes of merged tokens here"
        return None

    return refuses


SETTINGS = {
    "layers": "blocks",
    "attention": "attn",
    "attention_interface": False,
    "methods": {"forward_features": forward_features, "forward_intermediates": forward_intermediates},
    "read_config": read_config,
    "num_prefix_tokens": lambda config: config.num_prefix_tokens,
    "class_token": lambda config: config.has_class_token,
    "num_tokens": lambda config: config.num_prefix_tokens + num_patches(config),
    "official": official_deit,
}

register_architecture(
    vision_transformer.VisionTransformer,
    Block,
    attention_class=Attention,
    refuses=refuses_others(vision_transformer.Block, attention.Attention),
    **SETTINGS,
)
