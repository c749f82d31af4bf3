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

"""What launches the kernels of a device, and the operators that a compiler passes on and CUDA graphs record."""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..kernels import choice
from .masks import weights_of
from .plan import _merge_gradient
from .rows import sum_rows


#: Whether `torch.func` transforms what runs. Private in PyTorch: tests notice where it goes.
_is_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def can_launch(tokens: torch.Tensor) -> bool:
    """Whether kernels run on `tokens` at all. Numba needs numbers in memory, and nobody who watches or differentiates
    what is done with them: a compiler gets operators instead, which run the kernels inside."""
    if not choice.may_run(tokens.device):
        return False
    if not choice.has_loops(tokens.device):
        return True
    if type(tokens) is not torch.Tensor or torch.compiler.is_compiling() or _is_transformed():
        return False
    return getattr(forward_ad, "_current_level", -1) < 0 and get_proxy_mode() is None


@functools.cache
def _module(loops: bool) -> ModuleType:
    """What has the kernels."""
    if loops:
        from ..kernels.cpu import launch  # imports Numba
    else:
        from ..kernels.gpu import launch  # imports Triton
    return launch


def _launch(name: str, tokens: torch.Tensor, *others):
    """The kernel of this `name` for the device of `tokens`, which for Triton has to be the current one."""
    kernel = getattr(_module(choice.has_loops(tokens.device)), name)
    if tokens.device.type != "cuda":
        return kernel(tokens, *others)
    with torch.cuda.device(tokens.device):
        return kernel(tokens, *others)


def or_give_up(name: str, launch, tokens: torch.Tensor, *others):
    try:
        return launch(tokens, *others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Such as a tile that this device has no memory for.
        choice.give_up(tokens.device, name, error)
        return None


def launch_match(features, *others):
    *others, numerator, denominator, min_tokens, multiple_of, energy, margin, alpha, exponent, ends = others
    removed = numerator, denominator, min_tokens, multiple_of
    return _launch("match", features, *others, removed, energy, margin, alpha, exponent, ends)


@torch.library.custom_op(
    "optimum_pitome::match_fused",
    mutates_args=(),
    schema="(Tensor features, Tensor? attention, Tensor? valid, Tensor? special, Tensor? protected, int prefix, "
    "SymInt num_pairs, SymInt num_kept, SymInt removed_numerator, SymInt removed_denominator, SymInt min_tokens, "
    "SymInt multiple_of, str energy, float margin, float alpha, float exponent) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def match_operator(features, *others):
    return launch_match(features, *others, (0, 0))


@match_operator.register_fake
def _(features, attention, valid, special, protected, prefix, num_pairs, num_kept, *_):
    batch_size, num_tokens = features.shape[0], features.shape[2]
    lengths = [num_tokens, num_kept, num_pairs, num_pairs, num_pairs, num_kept]
    dtypes = [torch.int64] * 4 + [torch.bool] * 2
    return tuple(features.new_empty((batch_size, n), dtype=dtype) for n, dtype in zip(lengths, dtypes))


def launch_merge(hidden_states, *others):
    return _launch("merge", hidden_states, *others)


@torch.library.custom_op(
    "optimum_pitome::merge_fused",
    mutates_args=(),
    schema="(Tensor hidden_states, Tensor? sizes, Tensor rows, Tensor? counted, Tensor kept, Tensor source, "
    "Tensor target, Tensor? source_mask, Tensor? kept_valid, Tensor? original_rows, Tensor? special, "
    "Tensor? protected, Tensor? attention, bool weighted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def merge_operator(hidden_states, sizes, rows, *others):
    *found, composed, special, protected = launch_merge(hidden_states, sizes, rows, *others)
    # An operator returns tensors alone.
    composed = rows.new_empty(0) if composed is None else composed
    marks = [rows.new_empty(0, dtype=torch.bool) if mark is None else mark for mark in (special, protected)]
    return *found, composed, *marks


@merge_operator.register_fake
def _(hidden_states, sizes, rows, counted, kept, source, target, source_mask, kept_valid, original, *others):
    shape = kept.shape
    return (
        hidden_states.new_empty((*shape, hidden_states.shape[2])),
        hidden_states.new_empty(shape, dtype=torch.float32),
        hidden_states.new_empty(shape),
        rows.new_empty(0 if original is None else original.shape),
        *(rows.new_empty(0 if mask is None else shape, dtype=torch.bool) for mask in others[:2]),
    )


def _save_for_gradient(ctx, inputs, output):
    _, sizes, rows, counted, *_, attention, weighted = inputs
    # A bias of the attention that asked for a gradient would exclude its fast kernels.
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(sizes if weighted else None, attention, output[1], rows, counted)


def _gradient(ctx, gradient, *_):
    weights, attention, totals, rows, counted = ctx.saved_tensors
    if weights is None:  # each token weighs 1, or what it is paid
        weights = torch.ones_like(rows, dtype=torch.float32) if attention is None else weights_of(attention)
        totals = sum_rows(weights if counted is None else weights * counted, rows, totals.shape[1])
    return _merge_gradient(gradient, weights, totals, rows, counted, None), *[None] * 13


merge_operator.register_autograd(_gradient, setup_context=_save_for_gradient)


def launch_class_attention(query, *others):
    return _launch("class_attention", query, *others)


@torch.library.custom_op("optimum_pitome::class_attention_fused", mutates_args=())
def class_attention_operator(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    return launch_class_attention(query, key, bias, valid, scaling)


@class_attention_operator.register_fake
def _(query, *_):
    return query.new_empty(query.shape[:3], dtype=torch.float32)
