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

"""Runs the loops on tensors: the functions of `kernels/gpu/launch.py`, with their arguments and results."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from . import merging, plans
from .factors import factors


#: A batch is shared among threads from so many numbers on that each would read: below, handing them out takes longer.
_SHARED = 2**18

#: What is added to the scores of what is no token, by dtype.
_LOWEST = {dtype: np.float32(torch.finfo(dtype).min) for dtype in (torch.float32, torch.float16, torch.bfloat16)}

#: The dtypes of what [`match`] returns.
_OF_PLAN = (*[np.int64] * 4, *[np.bool_] * 2)

_NO_MASK, _NO_NUMBERS = np.empty((0, 1), dtype=np.bool_), np.empty((0, 1), dtype=np.float32)
_NO_HEADS, _NO_ROWS = np.empty((0, 1, 1), dtype=np.float32), np.empty((0, 1), dtype=np.int64)


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="pitome")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of the threads


def _run(loop: Callable, batch_size: int, work: int, *args) -> None:
    """`loop` on all samples, which read `work` numbers each; in as many threads as PyTorch has, where that pays."""
    number = batch_size * work // _SHARED
    number = min(number, batch_size, torch.get_num_threads()) if number > 1 else 1
    if number <= 1:
        loop(0, batch_size, *args)
        return
    bounds = [batch_size * part // number for part in range(number + 1)]
    tasks = [_threads(number).submit(loop, *part, *args) for part in zip(bounds[1:-1], bounds[2:])]
    loop(0, bounds[1], *args)
    for task in tasks:
        task.result()


def _by_token(tokens: torch.Tensor) -> np.ndarray:
    """`(B, heads, N, dim)` in memory as `(B, N, heads, dim)`, which a projection of all heads is already."""
    return tokens.detach().float().transpose(1, 2).contiguous().numpy()


def _bits(tokens: torch.Tensor) -> np.ndarray:
    """Memory of `tokens`; the loops read bfloat16 as it is."""
    return (tokens.view(torch.uint16) if tokens.dtype == torch.bfloat16 else tokens).numpy()


def _array(given: torch.Tensor | None, none: np.ndarray) -> np.ndarray:
    if given is None:
        return none
    return (given if given.is_contiguous() else given.contiguous()).numpy()


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
    """As the function for GPUs, for the energies "nearest" and "tome"; and with `ends`, as `TokenMasks` has them."""
    if features.shape[1] > 1 and not (features.dtype == torch.float32 and features.transpose(1, 2).is_contiguous()):
        features = features.mean(dim=1, keepdim=True)  # half precision is rounded here, and nothing else copied
    given, alternate = _by_token(features), energy == "tome"
    batch_size, num_tokens, heads, dim = given.shape
    masks = tuple(_array(mask, _NO_MASK) for mask in (valid, special, protected))
    number = num_tokens - prefix - sum(ends)
    number = (number + 1) // 2 if alternate else number
    left = np.empty((batch_size, number, dim), np.float32)
    right = np.empty_like(left) if alternate else left
    weights, turns = np.empty((batch_size, num_tokens), np.float32), np.empty((batch_size, num_tokens), np.int8)
    of_tokens = weights, turns, np.empty((batch_size, 3), np.int64)
    paid = _NO_HEADS if attention_paid is None else _array(attention_paid.detach(), _NO_HEADS)
    rules = (prefix, *ends, *removed)
    of_features = given, paid, float(exponent), rules, masks, alternate
    _run(factors, batch_size, num_tokens * heads * dim, *of_features, left, right, *of_tokens)
    # PyTorch multiplies matrices faster than any loop here.
    product = torch.bmm(torch.from_numpy(left), torch.from_numpy(right).transpose(1, 2)).numpy()
    lengths = num_tokens, num_kept, num_pairs, num_pairs, num_pairs, num_kept
    plan = tuple(np.empty((batch_size, length), dtype) for length, dtype in zip(lengths, _OF_PLAN))
    loop = plans.alternate if alternate else plans.protect
    _run(loop, batch_size, number * number, product, *of_tokens, masks[0], prefix + ends[0], plan)
    return tuple(map(torch.from_numpy, plan))


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
    kept_norm: float = 0.0,
) -> tuple[torch.Tensor, ...]:
    """As the function for GPUs, with `None` for what is not given; `rows` and `counted` say what the pairs say. Means
    keep `kept_norm` of their norm."""
    dtype, (batch_size, num_kept), given = hidden_states.dtype, kept.shape, hidden_states.detach()
    given = (given.float() if dtype == torch.float16 else given).contiguous()
    merged = given.new_empty((batch_size, num_kept, given.shape[2]))
    of_sizes = _array(sizes, _NO_NUMBERS)
    weights = of_sizes if weighted else _NO_NUMBERS
    if attention is not None:
        attention = attention.detach()
        paid = attention[:, 0] if attention.shape[1] == 1 else attention.mean(dim=1)
        weights = _array(paid.clamp(min=1e-9), _NO_NUMBERS)  # as `masks.weights_of`
    plan = rows.numpy(), _array(counted, _NO_MASK), kept.numpy(), _array(kept_valid, _NO_MASK)
    merged_sizes, logs = np.empty((batch_size, num_kept), np.float32), np.empty((batch_size, num_kept), np.float32)
    composed = _NO_ROWS if original_rows is None else np.empty(tuple(original_rows.shape), np.int64)
    masks = [
        (_array(mask, _NO_MASK), _NO_MASK if mask is None else np.empty_like(plan[2], np.bool_))
        for mask in (special, protected)
    ]
    moved = (_array(original_rows, _NO_ROWS), composed), *masks
    rules = _LOWEST[dtype], np.float32(kept_norm)
    arrays = _bits(given), weights, of_sizes, plan, *rules, _bits(merged), merged_sizes, logs, moved
    _run(merging.merge, batch_size, given.shape[1] * given.shape[2], *arrays)
    found = [
        None if before is None else torch.from_numpy(after)
        for before, (_, after) in zip((original_rows, special, protected), moved)
    ]
    merged_sizes, logs = torch.from_numpy(merged_sizes), torch.from_numpy(logs)
    if dtype != torch.float32:
        merged, logs = merged.to(dtype), logs.to(dtype)
    return merged, merged_sizes, logs, *found


def class_attention(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """As the function for GPUs, but the mean over the heads, `(B, 1, N)`. `bias` has one row for all queries, and keys
    lie in memory by token or by head."""
    if bias is not None:
        bias = bias.detach()[:, :, 0]
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=torch.float32).masked_fill_(~bias, _LOWEST[torch.float32].item())
        bias = bias.float()
    # Without a mask the first token asks.
    asked = _by_token(query[:, :, :1] if valid is None else query)
    (batch_size, heads, num_tokens, dim), given = key.shape, key.detach()
    given = given.float() if given.dtype == torch.float16 else given
    by_token = given.transpose(1, 2)
    by_head = not by_token.is_contiguous()
    given = _bits(given if by_head else by_token)
    attention = np.empty((batch_size, 1, num_tokens), np.float32)
    arrays = asked, given, by_head, _array(bias, _NO_HEADS), _array(valid, _NO_MASK), np.float32(scaling), attention
    _run(merging.class_attention, batch_size, num_tokens * heads * dim, *arrays)
    return torch.from_numpy(attention)
