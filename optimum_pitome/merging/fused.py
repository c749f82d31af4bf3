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

"""The merge step on fused kernels: the same functions, as operators that a compiler passes on and CUDA graphs record.

Matching is one operator of four launches, merging one of one launch. Where they do not fit, the functions return
`None`, and PyTorch's own operations run.
"""

from __future__ import annotations

import contextlib

import torch

from ..kernels import choice
from ..methods import ENERGIES
from .energy import MANY_TOKENS
from .masks import TokenMasks, weights_of
from .plan import MergePlan, _merge_gradient
from .rows import sum_rows
from .spec import MergeSpec


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ENERGIES = ("nearest", "paper", "elu", "gaussian")

#: One tile holds the features of a token, and another one those of 16 keys of a head.
_MAX_DIM, _MAX_HEAD_DIM = 2048, 1024

#: As many programs run beside one another in the second dimension of a grid.
_MAX_SAMPLES = 65535


class FusedPlan(MergePlan):
    """A plan that [`merge_tokens`] can apply: `kept`, `source` and `target` are at hand, and count from the first
    token."""

    def __init__(self, kept: torch.Tensor, **settings):
        super().__init__(**settings)
        self._kept = kept


def match_fused(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> FusedPlan | None:
    """`match_tokens`, or `None` where the kernels do not run or nothing is to be merged."""
    if not choice.may_run(features.device):
        return None
    # ToMe ranks by what each token that proposes is nearest to.
    energy = "tome" if spec.algorithm == "tome" else spec.energy
    known = spec.algorithm == "pitome" and spec.energy in _ENERGIES or energy == "tome" and masks.protected is None
    if not known or spec.combine != "mean" or sum(masks.ends):
        return None
    features = features.unsqueeze(1) if features.dim() == 3 else features
    if features.dtype not in _DTYPES or features.shape[-1] > _MAX_DIM or not features.shape[0] <= _MAX_SAMPLES:
        return None
    batch_size, num_tokens, prefix = features.shape[0], features.shape[2], masks.num_prefix_tokens
    weighted = spec.importance > 0.0 and masks.attention is not None
    given = tuple(mask is not None for mask in (masks.valid, masks.special, masks.protected))
    variant = _name(features.dtype), int(features.shape[3]), energy, weighted, *given
    if not choice.is_chosen("match", features.device, *variant):
        return None
    ratio = spec.ratio
    num_pairs = masks.most_removed(ratio, num_tokens)
    if num_tokens > MANY_TOKENS or num_pairs <= 0 or 2 * num_pairs > num_tokens - prefix:
        return None
    masks.check(features[:, 0])
    num_kept = masks.num_kept(ratio, num_tokens)
    attention = masks.attention.float() if weighted else None
    attention = attention.unsqueeze(1) if weighted and attention.dim() == 2 else attention
    arguments = (features, attention, masks.valid, masks.special, masks.protected, prefix, num_pairs, num_kept)
    # Layers share a graph where they differ in whole numbers alone. Compilers take other numbers for constants, so
    # only those that count are among the arguments.
    margin, alpha = 0.0, 1.0
    if energy != "tome" and ENERGIES[energy].has_margin:
        margin, alpha = spec.margin, spec.alpha
    removed = ratio.removed_numerator, ratio.removed_denominator, ratio.min_tokens, ratio.multiple_of
    arguments += (*removed, energy, margin, alpha, spec.importance / 2 if weighted else 0.0)
    if torch.compiler.is_compiling():
        found = _match(*arguments)
    else:
        found = _or_give_up("match", launch_match, *arguments)
        if found is None:
            return None
    rows, kept, source, target, source_mask, kept_valid = found
    masked = any(given)
    return FusedPlan(
        kept=kept,
        source=source,
        target=target,
        rows=rows,
        num_kept=num_kept,
        source_mask=source_mask if masked else None,
        valid=kept_valid if masked else None,
        counted=None if masks.valid is None else masks.valid.expand(batch_size, -1),
        constants=masks.constants,
    )


def merge_tokens(
    plan: MergePlan,
    hidden_states: torch.Tensor,
    sizes: torch.Tensor | None,
    rows: torch.Tensor | None,
    special: torch.Tensor | None,
    protected: torch.Tensor | None,
    attention: torch.Tensor | None,
    size_weighted: bool,
) -> tuple[torch.Tensor | None, ...] | None:
    """All that a layer does with a plan, or `None` where the kernel does not run.

    Args:
        plan ([`MergePlan`]): of the layer.
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`): any floating dtype.
        sizes (`torch.FloatTensor` of shape `(B, N)`, *optional*): of the tokens. `None`: all 1.
        rows (`torch.LongTensor` of shape `(B, original)`, *optional*): where the original tokens are. `None`: here.
        special, protected (`torch.BoolTensor` of shape `(B, N)`, *optional*): see `TokenMasks`.
        attention (`torch.FloatTensor` of shape `(B, N)` or `(B, heads, N)`, *optional*):
            What weighs in the means, as [`~masks.weights_of`] says.
        size_weighted (`bool`): whether sizes weigh, where there is no `attention`.

    Returns:
        Merged hidden states `(B, n, dim)`; their sizes `(B, n)`; log sizes `(B, n)` in the dtype of `hidden_states`,
        its lowest number where no real token is; `rows`, `special` and `protected` after the merge.
    """
    if (
        not isinstance(plan, FusedPlan)
        or hidden_states.dtype not in _DTYPES
        or plan.rows.device != hidden_states.device
    ):
        return None
    masked = plan.source_mask is not None
    flags = masked, sizes is not None, rows is not None, special is not None, protected is not None
    weighs = "attention" if attention is not None else "sizes" if size_weighted else "nothing"
    variant = _name(hidden_states.dtype), int(hidden_states.shape[2]), *flags, weighs
    if not choice.is_chosen("merge", hidden_states.device, *variant):
        return None
    moved = rows, special, protected
    pairs = plan.kept, plan.source, plan.target, plan.source_mask, plan.valid
    attention = attention.unsqueeze(1) if attention is not None and attention.dim() == 2 else attention
    arguments = (hidden_states, sizes, plan.rows, plan.counted, *pairs, *moved, attention, weighs == "sizes")
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and hidden_states.requires_grad):
        found = _merge(*arguments)
    else:
        found = _or_give_up("merge", launch_merge, *arguments)
        if found is None:
            return None
    *others, composed, merged_special, merged_protected = found
    moved = [None if was is None else now for was, now in zip(moved, (composed, merged_special, merged_protected))]
    return (*others, plan.rows if rows is None else moved[0], *moved[1:])


def class_attention_fused(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor | None:
    """`class_attention` by head, `(B, heads, N)`, or `None` where the kernel does not run."""
    if not choice.may_run(query.device):
        return None
    if query.dtype not in _DTYPES or key.dtype != query.dtype or query.shape[3] > _MAX_HEAD_DIM:
        return None
    kind = "none" if bias is None else "allowed" if bias.dtype == torch.bool else _name(bias.dtype)
    variant = _name(query.dtype), int(query.shape[3]), kind, valid is not None
    if query.shape[0] > _MAX_SAMPLES or not choice.is_chosen("class_attention", query.device, *variant):
        return None
    if torch.compiler.is_compiling():
        return _class_attention(query, key, bias, valid, scaling)
    return _or_give_up("class_attention", launch_class_attention, query, key, bias, valid, scaling)


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes `device` the current one, on which Triton launches whatever the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _or_give_up(name: str, launch, tokens: torch.Tensor, *others):
    try:
        return launch(tokens, *others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Such as a tile that this device has no memory for.
        choice.give_up(tokens.device, name, error)
        return None


def launch_match(features, *others):
    from ..kernels.launch import match  # imports Triton

    *others, numerator, denominator, min_tokens, multiple_of, energy, margin, alpha, exponent = others
    removed = numerator, denominator, min_tokens, multiple_of
    with _current(features.device):
        return match(features, *others, removed, energy, margin, alpha, exponent)


@torch.library.custom_op(
    "optimum_pitome::match_fused",
    mutates_args=(),
    schema="(Tensor features, Tensor? attention, Tensor? valid, Tensor? special, Tensor? protected, int prefix, "
    "SymInt num_pairs, SymInt num_kept, SymInt removed_numerator, SymInt removed_denominator, SymInt min_tokens, "
    "SymInt multiple_of, str energy, float margin, float alpha, float exponent) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _match(features, *others):
    return launch_match(features, *others)


@_match.register_fake
def _(features, attention, valid, special, protected, prefix, num_pairs, num_kept, *_):
    batch_size, num_tokens = features.shape[0], features.shape[2]
    lengths = [num_tokens, num_kept, num_pairs, num_pairs, num_pairs, num_kept]
    dtypes = [torch.int64] * 4 + [torch.bool] * 2
    return tuple(features.new_empty((batch_size, n), dtype=dtype) for n, dtype in zip(lengths, dtypes))


def launch_merge(hidden_states, sizes, rows, counted, *others):
    from ..kernels.merging import merge

    with _current(hidden_states.device):
        return merge(hidden_states, sizes, rows, *others)


@torch.library.custom_op(
    "optimum_pitome::merge_fused",
    mutates_args=(),
    schema="(Tensor hidden_states, Tensor? sizes, Tensor rows, Tensor? counted, Tensor kept, Tensor source, "
    "Tensor target, Tensor? source_mask, Tensor? kept_valid, Tensor? original_rows, Tensor? special, "
    "Tensor? protected, Tensor? attention, bool weighted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _merge(hidden_states, *others):
    return launch_merge(hidden_states, *others)


@_merge.register_fake
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


_merge.register_autograd(_gradient, setup_context=_save_for_gradient)


def launch_class_attention(query, *others):
    from ..kernels.attention import class_attention

    with _current(query.device):
        return class_attention(query, *others)


@torch.library.custom_op("optimum_pitome::class_attention_fused", mutates_args=())
def _class_attention(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    return launch_class_attention(query, key, bias, valid, scaling)


@_class_attention.register_fake
def _(query, *_):
    return query.new_empty(query.shape[:3], dtype=torch.float32)
