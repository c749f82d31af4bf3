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

"""The kernel that merges: weighted means, sizes, log sizes and what else moves along, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .tiles import bytes_of, dense_rows, num_blocks, power_of_two


@triton.jit
def paid(attention, heads, head_stride, token, share):
    """What a token weighs in a mean: the mean over the heads of what the class token pays to it, and not nothing;
    `share` is that of a head."""
    total = 0.0
    for head in range(heads):
        total += tl.load(attention + head * head_stride + token)
    return tl.maximum(total * share, 1e-9)


@triton.jit
def next_member(moved, joins, own, last, num_tokens):
    """The first token after `last` of a group: of those that join, and the one that stays."""
    member = tl.min(tl.where(joins & (moved > last), moved, num_tokens))
    return tl.minimum(member, tl.where(own > last, own, num_tokens))


@triton.jit(
    do_not_specialize=["attention_heads", "share_of_head", "num_tokens", "num_pairs", "num_kept", "num_original"]
)
def merge_kernel(
    hidden_states,
    sample_stride,
    token_stride,
    dim,
    sizes,
    attention,
    attention_heads,
    share_of_head,
    attention_sample_stride,
    attention_head_stride,
    kept,
    source,
    target,
    source_mask,
    kept_valid,
    rows,
    original_rows,
    special,
    special_stride,
    protected,
    protected_stride,
    merged,
    merged_sizes,
    bias,
    composed,
    merged_special,
    merged_protected,
    lowest,
    num_tokens,
    num_pairs,
    num_kept,
    num_original,
    MASKED: tl.constexpr,
    SIZED: tl.constexpr,
    WEIGHS: tl.constexpr,
    COMPOSED: tl.constexpr,
    SPECIAL: tl.constexpr,
    PROTECTED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One program for each token that stays and each block of its features; after those, one for each block of the
    original tokens, whose rows follow their tokens: `composed` `(B, original)`.

    The members of a group are added in the order of the tokens, so that a result does not depend on chance.
    """
    slot, sample, block = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    if slot < num_kept:
        place = sample * num_kept + slot
        own = tl.load(kept + place).to(tl.int32)
        here = 1
        if MASKED:
            here = tl.load(kept_valid + place).to(tl.int32)
        pairs = tl.arange(0, BLOCK_K)
        inside = pairs < num_pairs
        moved = tl.load(source + sample * num_pairs + pairs, mask=inside, other=0).to(tl.int32)
        joins = inside & (tl.load(target + sample * num_pairs + pairs, mask=inside, other=0).to(tl.int32) == own)
        if MASKED:
            joins = joins & (tl.load(source_mask + sample * num_pairs + pairs, mask=inside, other=0) != 0)
        joins = joins & (here != 0)
        number = tl.sum(joins.to(tl.int32)) + here
        # What is added up is small and whole, so the order does not matter here.
        size = number.to(tl.float32)
        if SIZED:
            sizes += sample * num_tokens
            size = tl.sum(tl.load(sizes + moved, mask=joins, other=0.0)) + tl.load(sizes + own) * here
        weight = size
        if WEIGHS == "nothing":
            weight = number.to(tl.float32)
        last = -1
        if WEIGHS == "attention":
            attention += sample * attention_sample_stride
            weight = 0.0
            for _ in range(number):
                member = next_member(moved, joins, own, last, num_tokens)
                weight += paid(attention, attention_heads, attention_head_stride, member, share_of_head)
                last = member
            last = -1
        columns = block * BLOCK_D + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_D,), dtype=tl.float32)
        for _ in range(number):
            member = next_member(moved, joins, own, last, num_tokens)
            if WEIGHS == "attention":
                own_weight = paid(attention, attention_heads, attention_head_stride, member, share_of_head)
                share = tl.div_rn(own_weight, weight)
            elif SIZED and WEIGHS == "sizes":
                share = tl.div_rn(tl.load(sizes + member), weight)
            else:
                share = tl.div_rn(1.0, weight)
            place_of = hidden_states + sample * sample_stride + member.to(tl.int64) * token_stride
            total += tl.load(place_of + columns, mask=columns < dim, other=0.0).to(tl.float32) * share
            last = member
        tl.store(merged + place * dim + columns, total.to(merged.dtype.element_ty), mask=columns < dim)
        if block == 0:
            tl.store(merged_sizes + place, size)
            log_size = tl.where(here != 0, tl.log(tl.maximum(size, 1e-30)), lowest)
            tl.store(bias + place, log_size.to(bias.dtype.element_ty))
            if SPECIAL:
                tl.store(merged_special + place, tl.load(special + sample * special_stride + own))
            if PROTECTED:
                tl.store(merged_protected + place, tl.load(protected + sample * protected_stride + own))
    else:
        if COMPOSED:
            if block == 0:
                original = (slot - num_kept) * BLOCK_R + tl.arange(0, BLOCK_R)
                inside = original < num_original
                before = tl.load(original_rows + sample * num_original + original, mask=inside, other=0)
                after = tl.load(rows + before, mask=inside, other=0)
                tl.store(composed + sample * num_original + original, after, mask=inside)


def merge(
    hidden_states: torch.Tensor,
    sizes: torch.Tensor | None,
    rows: torch.Tensor,
    counted: torch.Tensor | None,
    kept: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    source_mask: torch.Tensor | None,
    kept_valid: torch.Tensor | None,
    original_rows: torch.Tensor | None,
    special: torch.Tensor | None,
    protected: torch.Tensor | None,
    attention: torch.Tensor | None,
    weighted: bool,
) -> tuple[torch.Tensor, ...]:
    """What becomes of a layer's tokens by a plan that [`match`] laid out. One launch.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`).
        sizes (`torch.FloatTensor` of shape `(B, N)`, *optional*): `None`: all 1.
        rows, kept, source, target, source_mask, kept_valid: as [`match`] returns them; no masks: all.
        counted (`torch.BoolTensor`, *optional*): as in `MergePlan`; the masks of the pairs say the same here.
        original_rows (`torch.LongTensor` of shape `(B, original)`, *optional*): where the original tokens are now.
        special, protected (`torch.BoolTensor` of shape `(B or 1, N)`, *optional*): cut to the tokens that are left.
        attention (`torch.FloatTensor` of shape `(B, heads, N)`, *optional*): its mean weighs in the means.
        weighted (`bool`): whether sizes weigh, where there is no `attention`.

    Returns:
        Merged vectors `(B, n, dim)`; sizes `(B, n)`, 0 where no real token is; log sizes `(B, n)` in the dtype of the
        vectors, its lowest number where no real token is; rows of the original tokens, special and protected tokens,
        empty where not
        given.
    """
    hidden_states = dense_rows(hidden_states)
    # Those of another plan may be views.
    rows, kept, source, target = (index.contiguous() for index in (rows, kept, source, target))
    source_mask, kept_valid, sizes, original_rows = (
        None if given is None else given.contiguous() for given in (source_mask, kept_valid, sizes, original_rows)
    )
    batch_size, num_tokens, dim = hidden_states.shape
    num_kept, num_pairs, device = kept.shape[1], source.shape[1], hidden_states.device
    merged = hidden_states.new_empty((batch_size, num_kept, dim))
    merged_sizes = torch.empty((batch_size, num_kept), dtype=torch.float32, device=device)
    bias = hidden_states.new_empty((batch_size, num_kept))
    num_original = 0 if original_rows is None else original_rows.shape[1]
    composed = rows.new_empty(0) if original_rows is None else torch.empty_like(original_rows)
    merged_masks = [
        torch.empty((0,) if mask is None else kept.shape, dtype=torch.bool, device=device)
        for mask in (special, protected)
    ]
    block_d = min(power_of_two(dim), 1024)
    of_attention = merged_sizes, 1, 1.0, 0, 0
    if attention is not None:
        attention = dense_rows(attention)
        of_attention = attention, attention.shape[1], 1.0 / attention.shape[1], *attention.stride()[:2]
    merge_kernel[(num_kept + num_blocks(num_original, 256), batch_size, num_blocks(dim, block_d))](
        hidden_states,
        *hidden_states.stride()[:2],
        dim,
        merged_sizes if sizes is None else sizes,
        *of_attention,
        kept,
        source,
        target,
        source if source_mask is None else source_mask.view(torch.uint8),
        kept if kept_valid is None else kept_valid.view(torch.uint8),
        rows,
        rows if original_rows is None else original_rows,
        *bytes_of(special, kept),
        *bytes_of(protected, kept),
        merged,
        merged_sizes,
        bias,
        composed,
        *(mask.view(torch.uint8) for mask in merged_masks),
        torch.finfo(hidden_states.dtype).min,
        num_tokens,
        num_pairs,
        num_kept,
        num_original,
        MASKED=source_mask is not None,
        SIZED=sizes is not None,
        WEIGHS="attention" if attention is not None else "sizes" if weighted else "nothing",
        COMPOSED=original_rows is not None,
        SPECIAL=special is not None,
        PROTECTED=protected is not None,
        BLOCK_K=power_of_two(num_pairs),
        BLOCK_D=block_d,
        BLOCK_R=256,
        num_warps=4,
        # A product and a sum, not one operation: the numbers that PyTorch gets.
        enable_fp_fusion=False,
    )
    return merged, merged_sizes, bias, composed, *merged_masks
