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

import torch

from .constants import Constants, is_fused
from .exporting import runtime, sum_slots
from .opaque import empty, operator
from .rows import kept_first, rows_of, sum_rows, take, take_rows


def _shares(
    weights: torch.Tensor,
    totals: torch.Tensor,
    rows: torch.Tensor,
    counted: torch.Tensor | None,
    zero: torch.Tensor | None,
) -> torch.Tensor:
    """What each token weighs in the mean of its group, `(B, N)`: 0 for what is left out of it."""
    shares = weights / take(totals, rows)
    if counted is None:
        return shares
    # Not a product: in a sample of padding alone this is 0 / 0.
    return torch.where(counted, shares, totals.new_zeros(1) if zero is None else zero)


#: What the operators below are told about a plan: which row of the flattened result each token goes to, and which
#: tokens count.
_GROUPS = "Tensor rows, Tensor? counted, Tensor? zero"


@operator(
    "merge_backward",
    fake=lambda gradient, weights, *_: empty(gradient, (*weights.shape, gradient.shape[2])),
    schema=f"(Tensor gradient, Tensor weights, Tensor totals, {_GROUPS}) -> Tensor",
)
def _merge_gradient(
    gradient: torch.Tensor,
    weights: torch.Tensor,
    totals: torch.Tensor,
    rows: torch.Tensor,
    counted: torch.Tensor | None,
    zero: torch.Tensor | None,
) -> torch.Tensor:
    """The gradient of what [`_merge`] returns `(B, n, dim)`, as that of its hidden states `(B, N, dim)`."""
    shares = _shares(weights, totals, rows, counted, zero)
    return (take(gradient, rows) * shares.unsqueeze(-1)).to(gradient.dtype)


@operator(
    "merge",
    fake=lambda hidden_states, weights, totals, *_: empty(hidden_states, (*totals.shape, hidden_states.shape[2])),
    save=lambda hidden_states, *others: others,
    gradient=_merge_gradient,
    schema=f"(Tensor hidden_states, Tensor weights, Tensor totals, {_GROUPS}) -> Tensor",
)
def _merge(
    hidden_states: torch.Tensor,
    weights: torch.Tensor,
    totals: torch.Tensor,
    rows: torch.Tensor,
    counted: torch.Tensor | None,
    zero: torch.Tensor | None,
) -> torch.Tensor:
    """See [`MergePlan.merge`]."""
    # Convex weights: half precision cannot overflow, whatever the sizes. They are float32, and so is the sum then.
    parts = hidden_states * _shares(weights, totals, rows, counted, zero).unsqueeze(-1)
    return sum_rows(parts, rows, totals.shape[1], zero).to(hidden_states.dtype)


@operator(
    "merge_sizes",
    fake=lambda sizes, num_kept, *_: empty(sizes, (sizes.shape[0], num_kept)),
    schema=f"(Tensor sizes, SymInt num_kept, {_GROUPS}) -> Tensor",
)
def _merge_sizes(
    sizes: torch.Tensor,
    num_kept: int,
    rows: torch.Tensor,
    counted: torch.Tensor | None,
    zero: torch.Tensor | None,
) -> torch.Tensor:
    """See [`MergePlan.merge_sizes`]."""
    sizes = sizes if counted is None else sizes * counted
    if is_fused():
        places = torch.arange(num_kept, device=rows.device).expand(rows.shape[0], -1)
        here = rows.unsqueeze(1) == rows_of(places, num_kept).unsqueeze(2)
        return (here * sizes.unsqueeze(1)).sum(dim=2)
    return sum_rows(sizes, rows, num_kept, zero)


class MergePlan:
    """The matching of one layer. `B` samples, `N` tokens in, `k` removed, `n = N - k` out; indices are int64.

    This one takes the mean of each group; `combine.py` and `resample.py` have the other kinds. What all of them have,
    and a layer uses, are `rows`, `kept`, `valid`, [`~MergePlan.merge`], [`~MergePlan.merge_sizes`] and
    [`~MergePlan.unmerge`]. What follows from the rest is made when it is asked for, since it takes a launch or more.

    Attributes:
        rows (`torch.LongTensor` of shape `(B, N)`):
            Where every input token goes: the row of the flattened output `(B·n, ...)`.
        assignment (`torch.LongTensor` of shape `(B, N)`):
            The same as a slot in the sample's own output, 0 to `n - 1`: source tracing.
        kept (`torch.LongTensor` of shape `(B, n)`):
            Index of the token that each output slot holds, in the original order (fillers after the real ones).
        num_kept (`int`): n.
        source (`torch.LongTensor` of shape `(B, k)`): Index of each token that is merged away.
        target (`torch.LongTensor` of shape `(B, k)`): Index of the token that each source is merged into.
        destination (`torch.LongTensor` of shape `(B, k)`): Output slot of that token.
        source_mask (`torch.BoolTensor` of shape `(B, k)`, *optional*):
            Which pairs merge. With a padding mask, samples have fewer than `k`; and what is dropped does not merge.
            `None`: all.
        counted (`torch.BoolTensor` of shape `(B, N)`, *optional*):
            Which tokens count in the means and sizes: neither padding nor what is dropped. `None`: all.
        valid (`torch.BoolTensor` of shape `(B, n)`, *optional*):
            Which output slots hold a real token; the others hold zeros. `None`: all.

    Args:
        kept, source, destination, assignment, source_mask, valid, rows, num_kept, counted, target:
            As above. Without `rows`, `assignment` says it all; without `assignment`, `rows` and `num_kept`.
        constants ([`Constants`], *optional*): of the forward.
        start (`int`, *optional*, defaults to 0): the token that `source` and `target` count from.
    """

    def __init__(
        self,
        kept: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        destination: torch.Tensor | None = None,
        assignment: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        valid: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        num_kept: int | None = None,
        counted: torch.Tensor | None = None,
        constants: Constants | None = None,
        target: torch.Tensor | None = None,
        start: int = 0,
    ):
        self.source_mask, self.valid = source_mask, valid
        self._source, self._target, self._start = source, target, start
        self.num_kept = kept.shape[1] if num_kept is None else num_kept
        self.rows = rows_of(assignment, self.num_kept, constants) if rows is None else rows
        if counted is None and kept is not None and (source_mask is not None or valid is not None):
            # What is kept counts where it is real, and a source where its pair merges.
            counted = torch.zeros_like(self.rows, dtype=torch.bool)
            counted = counted.scatter(1, source, True if source_mask is None else source_mask)
            counted = counted.scatter(1, kept, True if valid is None else valid)
        self.counted = counted
        self._kept, self._destination, self._assignment, self._constants = kept, destination, assignment, constants

    @property
    def source(self) -> torch.Tensor | None:
        return self._source + self._start if self._start else self._source

    @property
    def target(self) -> torch.Tensor:
        if self._target is None:
            return self.kept.gather(1, self.destination)
        return self._target + self._start if self._start else self._target

    @property
    def assignment(self) -> torch.Tensor:
        if self._assignment is None:
            self._assignment = rows_of(self.rows, -self.num_kept, self._constants)
        return self._assignment

    @property
    def destination(self) -> torch.Tensor:
        if self._destination is None:
            self._destination = self.assignment.gather(1, self.source)
        return self._destination

    @property
    def kept(self) -> torch.Tensor:
        if self._kept is None:
            self._kept = kept_first(torch.ones_like(self.rows).scatter(1, self.source, 0), self.num_kept)
        return self._kept

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
        if runtime() is not None:
            shares = weights / totals.gather(1, self.assignment)
            shares = shares if self.counted is None else shares.masked_fill(~self.counted, 0.0)
            parts = hidden_states * shares.unsqueeze(-1)
            return sum_slots(parts, self.assignment, self.num_kept).to(hidden_states.dtype)
        return _merge(hidden_states, weights, totals, *self._groups)

    def merge_sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        """Group totals: `(B, N)` token sizes to `(B, n)`, float32."""
        if runtime() is not None:
            return sum_slots(sizes if self.counted is None else sizes * self.counted, self.assignment, self.num_kept)
        return _merge_sizes(sizes, self.num_kept, *self._groups)

    @property
    def _groups(self) -> tuple[torch.Tensor | None, ...]:
        return self.rows, self.counted, None if self._constants is None else self._constants.zero

    @property
    def _pairs(self) -> tuple[torch.Tensor | None, ...]:
        return self.kept, self.source, self.destination, self.source_mask

    def unmerge(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Back to `N` tokens: each original token gets the vector of its group. `(B, n, ...)` to `(B, N, ...)`."""
        return take_rows(hidden_states, self.rows)
