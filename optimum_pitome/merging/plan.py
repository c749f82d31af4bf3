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

"""A merge plan: which tokens of a layer survive, which are merged into which, and how to apply and undo it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .opaque import operator


def scatter_tokens(tokens: torch.Tensor, index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """The sums of the `tokens` `(B, n, ...)` that go to each place `index` `(B, n)`: `(B, num_tokens, ...)`."""
    sums = tokens.new_zeros((tokens.shape[0], num_tokens, *tokens.shape[2:]))
    return sums.scatter_add_(1, index.view(*index.shape, *[1] * (tokens.dim() - 2)).expand_as(tokens), tokens)


@operator(
    "gather_tokens",
    fake=lambda tokens, index: tokens.new_empty((*index.shape, *tokens.shape[2:])),
    save=lambda tokens, index: (index, tokens.shape[1]),
    gradient=operator(
        "gather_tokens_backward",
        fake=lambda gradient, index, num_tokens: gradient.new_empty((len(index), num_tokens, *gradient.shape[2:])),
    )(scatter_tokens),
)
def gather_tokens(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of `tokens` `(batch_size, num_tokens, ...)` at `index` `(batch_size, n)`, as `(batch_size, n, ...)`.

    One flat `index_select` copies whole rows; `torch.gather` with an expanded index is ten times slower on a CPU.
    """
    if tokens.dim() == 2:
        return tokens.gather(1, index)
    batch_size, num_tokens = tokens.shape[:2]
    offsets = torch.arange(batch_size, device=index.device).unsqueeze(1) * num_tokens
    rows = tokens.reshape(batch_size * num_tokens, *tokens.shape[2:]).index_select(0, (index + offsets).flatten())
    return rows.view(batch_size, index.shape[1], *tokens.shape[2:])


def narrowed(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`values` in the dtype of `like`, where they are no convex combination of it: single features can be larger than
    any of `like`, and the range of float16 is small."""
    if like.dtype == torch.float16:
        values = values.clamp(min=torch.finfo(like.dtype).min, max=torch.finfo(like.dtype).max)
    return values.to(like.dtype)


def _of_sources(weights: torch.Tensor, source: torch.Tensor, source_mask: torch.Tensor | None) -> torch.Tensor:
    """The weights of the sources, `(B, k)`: 0 for pairs that do not merge."""
    moved = gather_tokens(weights, source)
    return moved if source_mask is None else moved * source_mask


def _shares(
    weights: torch.Tensor,
    totals: torch.Tensor,
    kept: torch.Tensor,
    source: torch.Tensor,
    destination: torch.Tensor,
    source_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each kept token `(B, n)` and each source `(B, k)` weighs in the mean of its group."""
    moved = _of_sources(weights, source, source_mask)
    return gather_tokens(weights, kept) / totals, moved / totals.gather(1, destination)


#: What the operators below are told about a plan, as [`MergePlan`] has it: their `*pairs`.
_PAIRS = "Tensor kept, Tensor source, Tensor destination, Tensor? source_mask"


@operator(
    "merge_backward",
    fake=lambda gradient, weights, *_: gradient.new_empty((*weights.shape, gradient.shape[2])),
    schema=f"(Tensor gradient, Tensor weights, Tensor totals, {_PAIRS}) -> Tensor",
)
def _merge_gradient(
    gradient: torch.Tensor, weights: torch.Tensor, totals: torch.Tensor, *pairs: torch.Tensor | None
) -> torch.Tensor:
    """The gradient of what [`_merge`] returns `(B, n, dim)`, as that of its hidden states `(B, N, dim)`."""
    kept, source, destination, _ = pairs
    kept_weight, source_weight = _shares(weights, totals, *pairs)
    accumulated = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    moved = gather_tokens(accumulated, destination) * source_weight.unsqueeze(-1)
    spread = scatter_tokens(accumulated * kept_weight.unsqueeze(-1), kept, weights.shape[1])
    return (spread + scatter_tokens(moved, source, weights.shape[1])).to(gradient.dtype)


@operator(
    "merge",
    fake=lambda hidden_states, weights, totals, *_: hidden_states.new_empty((*totals.shape, hidden_states.shape[2])),
    save=lambda hidden_states, *others: others,
    gradient=_merge_gradient,
    schema=f"(Tensor hidden_states, Tensor weights, Tensor totals, {_PAIRS}) -> Tensor",
)
def _merge(
    hidden_states: torch.Tensor, weights: torch.Tensor, totals: torch.Tensor, *pairs: torch.Tensor | None
) -> torch.Tensor:
    """See [`MergePlan.merge`]."""
    kept, source, destination, _ = pairs
    # Convex weights: half precision cannot overflow, whatever the sizes; the sum itself runs in float32 at least.
    accumulate = torch.promote_types(hidden_states.dtype, torch.float32)
    kept_weight, source_weight = _shares(weights, totals, *pairs)
    batch_size, num_kept = kept.shape
    # In place: what is gathered is fresh memory, and a second copy of it would cost as much again.
    merged = gather_tokens(hidden_states, kept).to(accumulate).mul_(kept_weight.unsqueeze(-1))
    moved = gather_tokens(hidden_states, source).to(accumulate).mul_(source_weight.unsqueeze(-1))
    if torch.jit.is_tracing():
        # The older ONNX exporter loses additions in place; this one takes ten times as long on a CPU.
        index = destination.unsqueeze(-1).expand_as(moved)
        return merged.scatter_add(1, index, moved).to(hidden_states.dtype)
    offsets = torch.arange(batch_size, device=destination.device).unsqueeze(1) * num_kept
    flat = merged.flatten(0, 1).index_add_(0, (destination + offsets).flatten(), moved.flatten(0, 1))
    return flat.view_as(merged).to(hidden_states.dtype)


@operator(
    "merge_sizes",
    fake=lambda sizes, kept, *_: sizes.new_empty(kept.shape),
    schema=f"(Tensor sizes, {_PAIRS}) -> Tensor",
)
def _merge_sizes(sizes: torch.Tensor, *pairs: torch.Tensor | None) -> torch.Tensor:
    """See [`MergePlan.merge_sizes`]."""
    kept, source, destination, source_mask = pairs
    return gather_tokens(sizes, kept).scatter_add(1, destination, _of_sources(sizes, source, source_mask))


@dataclass
class MergePlan:
    """The matching of one layer. `B` samples, `N` tokens in, `k` removed, `n = N - k` out; indices are int64.

    This one takes the mean of each group; `combine.py` and `resample.py` have the other kinds. What all of them have,
    and a layer uses, are `kept`, `assignment`, `valid`, [`~MergePlan.merge`], [`~MergePlan.merge_sizes`] and
    [`~MergePlan.unmerge`].

    Attributes:
        kept (`torch.LongTensor` of shape `(B, n)`):
            Index of the token that each output slot holds, in the original order (fillers after the real ones).
        source (`torch.LongTensor` of shape `(B, k)`): Index of each token that is merged away.
        destination (`torch.LongTensor` of shape `(B, k)`): Output slot that each source is merged into.
        assignment (`torch.LongTensor` of shape `(B, N)`): Output slot of every input token: source tracing.
        source_mask (`torch.BoolTensor` of shape `(B, k)`, *optional*):
            Which pairs merge. With a padding mask, samples have fewer than `k`; and what is dropped does not merge.
            `None`: all.
        valid (`torch.BoolTensor` of shape `(B, n)`, *optional*):
            Which output slots hold a real token. `None`: all.
    """

    kept: torch.Tensor
    source: torch.Tensor
    destination: torch.Tensor
    assignment: torch.Tensor
    source_mask: torch.Tensor | None = None
    valid: torch.Tensor | None = None

    def merge(
        self, hidden_states: torch.Tensor, weights: torch.Tensor | None = None, totals: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted mean of each group of tokens; a token that nothing joins is passed on unchanged, bit for bit.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, N, dim)`): any floating dtype.
            weights (`torch.FloatTensor` of shape `(B, N)`, *optional*):
                Weight of every token in the mean, usually its size. `None`: all equal.
            totals (`torch.FloatTensor` of shape `(B, n)`, *optional*):
                What [`~MergePlan.merge_sizes`] gives for `weights`, where it is known.

        Returns:
            `torch.Tensor` of shape `(B, n, dim)` and the dtype of `hidden_states`.
        """
        if weights is None:
            weights = torch.ones(hidden_states.shape[:2], dtype=torch.float32, device=hidden_states.device)
        totals = self.merge_sizes(weights) if totals is None else totals
        return _merge(hidden_states, weights, totals, *self._pairs)

    def merge_sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        """Group totals: `(B, N)` token sizes to `(B, n)`, float32."""
        return _merge_sizes(sizes, *self._pairs)

    @property
    def _pairs(self) -> tuple[torch.Tensor | None, ...]:
        return self.kept, self.source, self.destination, self.source_mask

    def unmerge(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Back to `N` tokens: each original token gets the vector of its group. `(B, n, ...)` to `(B, N, ...)`."""
        return gather_tokens(hidden_states, self.assignment)


def plan_from_pairs(
    source: torch.Tensor,
    target: torch.Tensor,
    num_tokens: int,
    num_kept: int,
    source_mask: torch.Tensor | None = None,
    valid: torch.Tensor | None = None,
    dropped: torch.Tensor | None = None,
    kind: type[MergePlan] = MergePlan,
) -> MergePlan:
    """Builds the plan that merges `source[b, j]` into `target[b, j]` and keeps the rest in its order.

    Args:
        source, target (`torch.LongTensor` of shape `(B, k)`): token indices; no target is a source.
        num_tokens (`int`): N.
        num_kept (`int`): n, the static number of output slots. At least the real tokens that survive in any sample.
        source_mask (`torch.BoolTensor` of shape `(B, k)`, *optional*): which pairs are real.
        valid (`torch.BoolTensor` of shape `(B, N)`, *optional*): which input tokens are real (not padding).
        dropped (`torch.BoolTensor` of shape `(B, k)`, *optional*):
            Sources that go without leaving anything: only `assignment` names their target. `None`: none.
        kind (`type[MergePlan]`): the class of the plan.
    """
    position = torch.arange(num_tokens, device=source.device).expand(source.shape[0], -1)
    stays = torch.ones_like(position)
    if source_mask is None:
        stays = stays.scatter(1, source, 0)
    else:
        stays = stays.scatter_add(1, source, -source_mask.long())
    kept_valid, num_real = None, num_kept
    if valid is not None:
        stays = stays * valid
        num_real = stays.sum(dim=1, keepdim=True)
        kept_valid = torch.arange(num_kept, device=source.device) < num_real
    # What stays comes first, the rest after it, both in their order: counted, which takes a fifth of a sort's time.
    rank = stays.cumsum(dim=1)
    slot_of = torch.where(stays.bool(), rank - 1, position - rank + num_real)
    kept = torch.empty_like(position).scatter(1, slot_of, position)[:, :num_kept]
    destination = slot_of.gather(1, target)
    joined = destination
    if source_mask is not None:
        destination = destination.clamp(max=num_kept - 1)  # pairs that do not merge may name a pad without a slot
        joined = torch.where(source_mask, destination, slot_of.gather(1, source))
    assignment = slot_of.scatter(1, source, joined)
    if valid is not None:
        # Pads read the first real token (CLS): heads that look at position 0 find it there under padding on the left.
        assignment = assignment.masked_fill(~valid, 0)
    if dropped is not None:
        source_mask = ~dropped if source_mask is None else source_mask & ~dropped
    return kind(kept, source, destination, assignment, source_mask, kept_valid)
