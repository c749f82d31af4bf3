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

"""The merge step on fused kernels: the same functions, which return `None` where the kernels do not fit, and PyTorch's
own operations run."""

from __future__ import annotations

import torch

from ..kernels import choice
from ..methods import ENERGIES
from . import launches
from .combine import keep_norm
from .energy import MANY_TOKENS
from .masks import TokenMasks, weights_of_means
from .plan import MergePlan
from .spec import MergeSpec


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: The first one has loops in Numba, too; the others take the exponential of every pair, which PyTorch does as fast.
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
    if not launches.can_launch(features):
        return None
    # ToMe ranks by what each token that proposes is nearest to.
    energy = "tome" if spec.algorithm == "tome" else spec.energy
    loops = choice.has_loops(features.device)
    energies = _ENERGIES[: 1 if loops else None]
    known = spec.algorithm == "pitome" and spec.energy in energies or energy == "tome" and masks.protected is None
    if not known or spec.combine != "mean" or sum(masks.ends) and not loops:
        return None
    features = features.unsqueeze(1) if features.dim() == 3 else features
    if features.dtype not in _DTYPES or features.shape[-1] > _MAX_DIM or not features.shape[0] <= _MAX_SAMPLES:
        return None
    batch_size, num_tokens, prefix = features.shape[0], features.shape[2], masks.num_prefix_tokens
    weighted = spec.importance > 0.0 and masks.attention is not None
    given = tuple(mask is not None for mask in (masks.valid, masks.special, masks.protected))
    # Loops are the same for all dtypes, widths and masks.
    variant = (energy,) if loops else (energy, _name(features.dtype), int(features.shape[3]), weighted, *given)
    if not choice.is_chosen("match", features.device, *variant):
        return None
    ratio = spec.ratio
    num_pairs = masks.most_removed(ratio, num_tokens)
    if num_tokens > MANY_TOKENS or num_pairs <= 0 or 2 * num_pairs > num_tokens - prefix - sum(masks.ends):
        return None
    masks.check(features[:, 0])
    num_kept = masks.num_kept(ratio, num_tokens)
    attention = masks.attention.float() if weighted else None
    attention = attention.unsqueeze(1) if weighted and attention.dim() == 2 else attention
    if loops and weighted and attention.shape[::2] != (batch_size, num_tokens):
        return None  # loops read beyond memory that does not fit
    arguments = (features, attention, masks.valid, masks.special, masks.protected, prefix, num_pairs, num_kept)
    # Layers share a graph where they differ in whole numbers alone. Compilers take other numbers for constants, so
    # only those that count are among the arguments.
    margin, alpha = 0.0, 1.0
    if energy != "tome" and ENERGIES[energy].has_margin:
        margin, alpha = spec.margin, spec.alpha
    removed = ratio.removed_numerator, ratio.removed_denominator, ratio.min_tokens, ratio.multiple_of
    arguments += (*removed, energy, margin, alpha, spec.importance / 2 if weighted else 0.0)
    if torch.compiler.is_compiling():
        found = launches.match_operator(*arguments)
    else:
        found = launches.or_give_up("match", launches.launch_match, *arguments, masks.ends)
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
    kept_norm: float = 0.0,
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
        kept_norm (`float`): how much of their norm means keep, see [`~combine.keep_norm`].

    Returns:
        Merged hidden states `(B, n, dim)`; their sizes `(B, n)`; log sizes `(B, n)` in the dtype of `hidden_states`,
        its lowest number where no real token is; `rows`, `special` and `protected` after the merge.
    """
    if (
        not isinstance(plan, FusedPlan)
        or not launches.can_launch(hidden_states)
        or hidden_states.dtype not in _DTYPES
        or plan.rows.device != hidden_states.device
    ):
        return None
    loops, variant, moved = choice.has_loops(hidden_states.device), (), (rows, special, protected)
    attention = attention.unsqueeze(1) if attention is not None and attention.dim() == 2 else attention
    if loops and not _fit(hidden_states, plan, sizes, attention, *moved):
        return None
    weighs = "attention" if attention is not None else "sizes" if size_weighted else "nothing"
    if not loops:
        flags = (given is not None for given in (plan.source_mask, sizes, *moved))
        variant = weighs, _name(hidden_states.dtype), int(hidden_states.shape[2]), *flags
    if not choice.is_chosen("merge", hidden_states.device, *variant):
        return None
    pairs = plan.kept, plan.source, plan.target, plan.source_mask, plan.valid
    arguments = (hidden_states, sizes, plan.rows, plan.counted, *pairs, *moved, attention, weighs == "sizes")
    inside = False
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and hidden_states.requires_grad):
        found = launches.merge_operator(*arguments)
    else:
        inside = loops  # these have no gradient
        arguments += (kept_norm,) if inside else ()
        found = launches.or_give_up("merge", launches.launch_merge, *arguments)
        if found is None:
            return None
    merged, merged_sizes, log_sizes, *found = found
    if kept_norm and not inside:
        weights = weights_of_means(attention, sizes if size_weighted else None, merged_sizes)
        merged = keep_norm(plan, hidden_states, merged, kept_norm, *weights)
    moved = [None if was is None else now for was, now in zip(moved, found)]
    return (merged, merged_sizes, log_sizes, plan.rows if rows is None else moved[0], *moved[1:])


def class_attention_fused(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor | None:
    """`class_attention` by head, `(B, heads, N)`, or its mean, `(B, 1, N)`; `None` where the kernel does not run."""
    if not launches.can_launch(query):
        return None
    loops = choice.has_loops(query.device)
    if loops and not _are_rows(query, key, bias, valid):
        return None
    if query.dtype not in _DTYPES or key.dtype != query.dtype or query.shape[3] > _MAX_HEAD_DIM:
        return None
    kind = "none" if bias is None else "allowed" if bias.dtype == torch.bool else _name(bias.dtype)
    variant = () if loops else (_name(query.dtype), int(query.shape[3]), kind, valid is not None)
    if query.shape[0] > _MAX_SAMPLES or not choice.is_chosen("class_attention", query.device, *variant):
        return None
    if torch.compiler.is_compiling():
        return launches.class_attention_operator(query, key, bias, valid, scaling)
    return launches.or_give_up("class_attention", launches.launch_class_attention, query, key, bias, valid, scaling)


def _fit(hidden_states, plan, sizes, attention, rows, special, protected) -> bool:
    """Whether shapes are those of the plan: PyTorch says where they are not, and loops would read other memory."""
    batch_size, num_tokens = plan.rows.shape
    by_token = [given for given in (sizes, special, protected) if given is not None]
    return (
        hidden_states.shape[:2] == plan.rows.shape
        and all(given.shape[0] in (1, batch_size) and given.shape[1] == num_tokens for given in by_token)
        and (sizes is None or sizes.shape[0] == batch_size)
        and (attention is None or attention.shape[::2] == plan.rows.shape)
        and (rows is None or rows.shape[0] == batch_size)
    )


def _are_rows(query, key, bias, valid) -> bool:
    """Whether loops can read the class token's attention: what fits together, keys that lie in memory by token or by
    head, and one row of `bias` for all queries."""
    batch_size, heads, num_tokens, dim = key.shape
    return (
        query.shape[0] == batch_size
        and query.shape[3] == dim
        and query.shape[1] % heads == 0
        and (key.is_contiguous() or key.transpose(1, 2).is_contiguous())
        and (bias is None or bias.dim() == 4 and bias.shape[2:] == (1, num_tokens))
        and (bias is None or bias.shape[0] in (1, batch_size) and bias.shape[1] in (1, query.shape[1]))
        and (valid is None or valid.shape[1] == num_tokens == query.shape[2])
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
