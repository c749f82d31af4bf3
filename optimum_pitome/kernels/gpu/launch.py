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

"""Launches the kernels of matching; those of merging and of the class token's attention beside them."""

from __future__ import annotations

import torch

from . import matching, similarity
from .attention import class_attention
from .factors import factors_kernel
from .merging import merge
from .tiles import BLOCK_K, BLOCK_N, BLOCK_R, TILE, bytes_of, dense_rows, num_blocks, power_of_two


__all__ = ["class_attention", "match", "merge"]


def match(
    features: torch.Tensor,
    attention_paid: torch.Tensor | None,
    valid: torch.Tensor | None,
    special: torch.Tensor | None,
    protected: torch.Tensor | None,
    prefix: int,
    num_pairs: int,
    num_kept: int,
    removed: tuple[int, int, int, int],
    energy: str,
    margin: float,
    alpha: float,
    exponent: float,
    ends: tuple[int, int] = (0, 0),
) -> tuple[torch.Tensor, ...]:
    """PiToMe's or ToMe's matching. Four launches.

    Args:
        features (`torch.Tensor` of shape `(B, heads, N, dim)`): their mean over the heads is compared.
        attention_paid (`torch.FloatTensor` of shape `(B, heads, N)`, *optional*): by head, what weighs.
        valid, special, protected (`torch.BoolTensor` of shape `(B or 1, N)`, *optional*): as `TokenMasks` has them.
        prefix (`int`): tokens at the front that never merge.
        num_pairs, num_kept (`int`): k and n, of the whole batch.
        removed (`tuple[int, int, int, int]`):
            Numerator, denominator, `min_tokens` and `multiple_of` of `KeepRatio`.
        energy (`str`), margin, alpha (`float`): of `ENERGIES`; or "tome" for ToMe's matching, which protects nothing.
        exponent (`float`): of what a token weighs.
        ends (`tuple[int, int]`): none here, where masks cost no launch.

    Returns:
        Rows `(B, N)`, kept `(B, n)`, source and target `(B, k)`, int64; which pairs are real `(B, k)` and which of the
        result `(B, n)`, bool. As `MergePlan` has them.
    """
    features, device = dense_rows(features), features.device
    batch_size, heads, num_tokens, dim = features.shape
    shape, block_n, block_d = (batch_size, num_tokens), power_of_two(num_tokens), power_of_two(dim)
    factors = torch.empty((*shape, dim), dtype=torch.float32, device=device)
    mergeable, stays = torch.empty((2, *shape), dtype=torch.int8, device=device)
    counts = torch.empty((batch_size, 3), dtype=torch.int32, device=device)
    energies = torch.empty(shape, dtype=torch.float32, device=device)
    weighted = attention_paid is not None
    # Without weights nothing reads or writes these.
    weights = torch.empty(shape, dtype=torch.float32, device=device) if weighted else energies
    masks = [part for mask in (valid, special, protected) for part in bytes_of(mask, mergeable)]
    given, turns = {"VALID": valid is not None}, {"ALTERNATE": energy == "tome"}
    num_pool = (num_tokens - prefix + 1) // 2 if energy == "tome" else num_pairs
    if weighted:
        attention_paid = dense_rows(attention_paid)
        of_attention = attention_paid, attention_paid.shape[1], *attention_paid.stride()[:2]
    else:
        of_attention = energies, 1, 0, 0
    rows_at_once = max(1, TILE // block_d)
    factors_kernel[(num_blocks(num_tokens, rows_at_once), batch_size)](
        features,
        *features.stride()[:3],
        heads,
        dim,
        *of_attention,
        float(exponent),
        num_tokens,
        prefix,
        *removed,
        *masks,
        num_pairs,
        factors,
        weights,
        mergeable,
        counts,
        SPECIAL=special is not None,
        PROTECTED=protected is not None,
        WEIGHTED=weighted,
        BLOCK_N=block_n,
        BLOCK_M=rows_at_once,
        BLOCK_D=block_d,
        num_warps=4,
        **given,
        **turns,
    )
    similarity.energies_kernel[(num_blocks(num_tokens, BLOCK_N), batch_size)](
        factors,
        weights,
        mergeable,
        energies,
        num_tokens,
        dim,
        float(margin),
        float(alpha),
        max(1.0, float(alpha)),
        ENERGY=energy,
        WEIGHTED=weighted,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        num_warps=4,
    )
    # Not one tensor: an operator may not return two views of the same memory.
    lengths = num_pairs, num_pool, num_pairs
    source, pool, target = (torch.empty((batch_size, n), dtype=torch.int64, device=device) for n in lengths)
    matching.rank_kernel[(num_blocks(num_tokens, BLOCK_N), batch_size)](
        energies,
        mergeable,
        counts,
        *masks[:2],
        source,
        pool,
        stays,
        num_tokens,
        num_pairs,
        num_pool,
        prefix,
        BLOCK_N=BLOCK_N,
        BLOCK_R=BLOCK_R,
        num_warps=4,
        **given,
        **turns,
    )
    rows = torch.empty(shape, dtype=torch.int64, device=device)
    kept = torch.empty((batch_size, num_kept), dtype=torch.int64, device=device)
    source_mask = torch.empty((batch_size, num_pairs), dtype=torch.bool, device=device)
    kept_valid = torch.empty((batch_size, num_kept), dtype=torch.bool, device=device)
    matching.match_kernel[(num_blocks(num_pairs, BLOCK_N) + num_blocks(num_tokens, BLOCK_N), batch_size)](
        factors,
        weights,
        counts,
        *masks[:2],
        source,
        pool,
        stays,
        target,
        source_mask.view(torch.uint8),
        rows,
        kept,
        kept_valid.view(torch.uint8),
        num_tokens,
        num_pairs,
        num_pool,
        num_kept,
        dim,
        WEIGHTED=weighted,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        BLOCK_R=BLOCK_R,
        num_warps=4,
        **given,
        **turns,
    )
    return rows, kept, source, target, source_mask, kept_valid
