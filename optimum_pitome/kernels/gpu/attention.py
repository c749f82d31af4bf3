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

"""The kernel of what the class token pays to each token, by head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .tiles import TILE, bytes_of, dense_rows, power_of_two


@triton.jit
def class_scores(
    query,
    key,
    bias,
    tokens,
    inside,
    columns,
    dim,
    token_stride,
    scaling,
    lowest,
    BIAS: tl.constexpr,
):
    tile = tl.load(
        key + tokens[:, None] * token_stride + columns[None, :],
        mask=inside[:, None] & (columns < dim)[None, :],
        other=0.0,
    )
    score = tl.sum(tile.to(tl.float32) * query[None, :], axis=1) * scaling
    if BIAS == "added":
        score += tl.load(bias + tokens, mask=inside, other=0.0).to(tl.float32)
    if BIAS == "allowed":
        score = tl.where(tl.load(bias + tokens, mask=inside, other=0) != 0, score, lowest)
    return tl.where(inside, score, float("-inf"))


@triton.jit(do_not_specialize=["num_tokens", "heads_per_key"])
def class_attention_kernel(
    query,
    query_sample_stride,
    query_head_stride,
    query_token_stride,
    key,
    key_sample_stride,
    key_head_stride,
    key_token_stride,
    heads_per_key,
    bias,
    bias_sample_stride,
    bias_head_stride,
    bias_query_stride,
    valid,
    valid_stride,
    attention,
    scaling,
    lowest,
    num_tokens,
    dim,
    BIAS: tl.constexpr,
    VALID: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The softmax of one query's scores over all tokens: `attention` `(B, heads, N)`. The query is that of the first
    token, with `valid` of the first that is valid."""
    head, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first = num_tokens * 0
    if VALID:
        first = num_tokens
        for start in range(0, num_tokens, BLOCK_N):
            tokens = start + tl.arange(0, BLOCK_N)
            real = tl.load(valid + sample * valid_stride + tokens, mask=tokens < num_tokens, other=0) != 0
            first = tl.minimum(first, tl.min(tl.where(real, tokens, num_tokens)))
        first = tl.where(first == num_tokens, 0, first)
    columns = tl.arange(0, BLOCK_D)
    query += sample * query_sample_stride + head * query_head_stride + first.to(tl.int64) * query_token_stride
    key += sample * key_sample_stride + (head // heads_per_key) * key_head_stride
    bias += sample * bias_sample_stride + head * bias_head_stride + first.to(tl.int64) * bias_query_stride
    asked = tl.load(query + columns, mask=columns < dim, other=0.0).to(tl.float32)
    highest, total = tl.full((), float("-inf"), dtype=tl.float32), tl.full((), 0.0, dtype=tl.float32)
    for start in range(0, num_tokens, BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        inside = tokens < num_tokens
        score = class_scores(asked, key, bias, tokens, inside, columns, dim, key_token_stride, scaling, lowest, BIAS)
        above = tl.maximum(highest, tl.max(score))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(score - above))
        highest = above
    attention += (sample * tl.num_programs(0) + head) * num_tokens
    # The scores once more: the keys of one head are few, and lie in the cache by now.
    for start in range(0, num_tokens, BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        inside = tokens < num_tokens
        score = class_scores(asked, key, bias, tokens, inside, columns, dim, key_token_stride, scaling, lowest, BIAS)
        tl.store(attention + tokens, tl.exp(score - highest) / total, mask=inside)


def class_attention(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """What the class token pays to each token, by head. One launch.

    Args:
        query (`torch.Tensor` of shape `(B, heads, N, dim)`).
        key (`torch.Tensor` of shape `(B, key heads, N, dim)`).
        bias (`torch.Tensor`, *optional*): added to the scores, or a boolean mask; broadcasts to `(B, heads, N, N)`.
        valid (`torch.BoolTensor` of shape `(B or 1, N)`, *optional*): the class token is the first of these.
        scaling (`float`): of the scores.

    Returns:
        `torch.FloatTensor` of shape `(B, heads, N)`.
    """
    (batch_size, heads, num_tokens, dim), query, key = query.shape, dense_rows(query), dense_rows(key)
    result = query.new_empty((batch_size, heads, num_tokens), dtype=torch.float32)
    kind, strides = "none", (0, 0, 0)
    if bias is not None:
        kind = "allowed" if bias.dtype == torch.bool else "added"
        bias = dense_rows(bias)
        strides = tuple(0 if bias.shape[i] == 1 else bias.stride(i) for i in range(3))
        bias = bias.view(torch.uint8) if kind == "allowed" else bias
    valid_bytes, valid_stride = bytes_of(valid, result)
    block_d = power_of_two(dim)
    class_attention_kernel[(heads, batch_size)](
        query,
        *query.stride()[:3],
        key,
        *key.stride()[:3],
        heads // key.shape[1],
        result if bias is None else bias,
        *strides,
        valid_bytes,
        valid_stride,
        result,
        float(scaling),
        torch.finfo(torch.float32).min,
        num_tokens,
        dim,
        BIAS=kind,
        VALID=valid is not None,
        BLOCK_N=max(16, 2 * TILE // block_d),
        BLOCK_D=block_d,
        num_warps=4,
    )
    return result
