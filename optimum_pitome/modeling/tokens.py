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

"""The tokens between two layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..merging import Constants, MergePlan, ResamplePlan, TokenMasks, gather_tokens, merge_tokens, take_rows
from ..merging.combine import keep_norm
from ..merging.masks import weights_of_means
from ..merging.rows import composed, rows_of, sum_rows, take_pairs


@dataclass(frozen=True)
class Tokens:
    """The tokens between two layers: `B` samples, `n` tokens now, `N` at the start. `None` means untouched.

    Attributes:
        sizes (`torch.FloatTensor` of shape `(B, n)`, *optional*):
            Original tokens in each; after a merge 0 where no real token is.
        valid (`torch.BoolTensor` of shape `(B, n)`, *optional*): real tokens, not padding.
        special (`torch.BoolTensor` of shape `(B, n)`, *optional*): tokens that never merge, beyond the prefix.
        pairwise_mask (`torch.Tensor` of shape `(B, heads or 1, n or 1, n)`, *optional*):
            A caller's own attention pattern (boolean or additive), cut down to the tokens that are left.
        rows (`torch.LongTensor` of shape `(B, N)`, *optional*):
            Which of the flattened tokens `(B·n, ...)` each original one went to.
        positions (`torch.LongTensor` of shape `(B, n)`, *optional*):
            Original position of each (of the token that survived), for architectures that track it.
        track_positions (`bool`): whether `positions` are kept.
        num_prefix_tokens, max_special (`int`): see [`~merging.TokenMasks`].
        protected (`torch.BoolTensor` of shape `(B, n)`, *optional*): see [`~merging.TokenMasks`].
        constants ([`~merging.Constants`], *optional*): of this forward; `None` in a graph.
        log_sizes (`torch.Tensor` of shape `(B, n)`, *optional*):
            Their logarithm in the dtype of the hidden states, its lowest number where no real token is; where it was
            made along with `sizes`.
        slots (`torch.LongTensor` of shape `(B, N)`, *optional*): [`~Tokens.assignment`], in a graph for a runtime.
        ends (`tuple[int, int]`): see [`~merging.TokenMasks`].
    """

    sizes: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    special: torch.Tensor | None = None
    pairwise_mask: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    track_positions: bool = False
    num_prefix_tokens: int = 0
    max_special: int = 0
    protected: torch.Tensor | None = None
    constants: Constants | None = None
    log_sizes: torch.Tensor | None = None
    slots: torch.Tensor | None = None
    ends: tuple[int, int] = (0, 0)

    @property
    def assignment(self) -> torch.Tensor | None:
        """Which token each original one went to, `(B, N)`, 0 to `n - 1`; `None` where none has merged."""
        if self.rows is None:
            return None
        return rows_of(self.rows, -self.sizes.shape[1])

    def masks(self, attention: torch.Tensor | None = None) -> TokenMasks:
        masks = self.valid, self.special, self.max_special, attention, self.protected
        return TokenMasks(self.num_prefix_tokens, *masks, self.constants, self.ends)

    def merge(
        self,
        plan: MergePlan | ResamplePlan,
        hidden_states: torch.Tensor,
        attention: torch.Tensor | None,
        sized: bool,
        kept_norm: float = 0.0,
    ) -> tuple[torch.Tensor, Tokens]:
        """`hidden_states` `(B, n, dim)` and these tokens after a merge by `plan`; `attention`, `sized` and `kept_norm`
        are what [`~merging.TokenMasks.weights`] gives."""
        moved = self.rows, self.special, self.protected
        moved = merge_tokens(plan, hidden_states, self.sizes, *moved, attention, sized, kept_norm)
        if moved is not None:
            names = ("sizes", "log_sizes", "rows", "special", "protected")
            return moved[0], self._after(plan, **dict(zip(names, moved[1:])))
        after = self.merged(plan)
        weights = weights_of_means(attention, self.sizes if sized else None, after.sizes)
        merged = plan.merge(hidden_states, *weights)
        return (keep_norm(plan, hidden_states, merged, kept_norm, *weights) if kept_norm else merged), after

    def merged(self, plan: MergePlan | ResamplePlan) -> Tokens:
        """The tokens after a merge by `plan`."""
        sizes = torch.ones_like(plan.rows, dtype=torch.float32) if self.sizes is None else self.sizes
        return self._after(
            plan,
            sizes=plan.merge_sizes(sizes),
            log_sizes=None,
            **composed(plan, self.rows, self.slots),
            special=None if self.special is None else gather_tokens(self.special, plan.kept),
            protected=None if self.protected is None else gather_tokens(self.protected, plan.kept),
        )

    def _after(self, plan: MergePlan | ResamplePlan, **moved: torch.Tensor | None) -> Tokens:
        """These tokens after a merge by `plan`, with what has `moved` already."""
        positions, pairwise_mask = self.positions, self.pairwise_mask
        if self.track_positions:
            positions = plan.kept if positions is None else gather_tokens(positions, plan.kept)
        if pairwise_mask is not None:
            pairwise_mask = take_pairs(pairwise_mask, plan.kept)
        return replace(self, valid=plan.valid, positions=positions, pairwise_mask=pairwise_mask, **moved)

    def to(self, device: torch.device) -> Tokens:
        """On another device: with `device_map`, layers live on several."""
        if self is UNTOUCHED or (self.sizes is not None and self.sizes.device == device):
            return self
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, (torch.Tensor, Constants)) and value.device != device
        }
        return replace(self, **moved) if moved else self

    def unmerge(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, n, dim)` back to `(B, N, dim)`."""
        if self.rows is None:
            return hidden_states
        return take_rows(hidden_states, self.rows.to(hidden_states.device))

    def compress(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Undoes [`~Tokens.unmerge`]: `(B, N, dim)`, equal within each group, to `(B, n, dim)`."""
        if self.rows is None:
            return hidden_states
        return gather_tokens(hidden_states, self.members().to(hidden_states.device))

    def members(self) -> torch.Tensor:
        """One original token of each: `(B, n)`, int64. Only for tokens that have merged."""
        assignment = self.assignment
        position = torch.arange(assignment.shape[1], device=assignment.device).expand_as(assignment)
        # Any token of a group will do, so it does not matter which of them is written last.
        return position.new_zeros(self.sizes.shape).scatter(1, assignment, position)

    def merged_into(self, later: Tokens, hidden_states: torch.Tensor) -> torch.Tensor:
        """Brings `hidden_states` `(B, n, dim)` of these tokens to the tokens of a later layer: each group's mean.

        Every later token is a union of these, so the mean over its original tokens is the size-weighted mean here.
        What was pruned counts with the token that [`~Tokens.unmerge`] puts in its place.
        """
        if later.rows is None or later.rows is self.rows:
            return hidden_states
        device = hidden_states.device
        group, sizes = later.assignment.to(device), later.sizes.to(device)
        weights = torch.ones_like(group, dtype=sizes.dtype)
        if self.rows is not None:
            # The group of a token is that of any original token in it.
            group = torch.zeros_like(self.sizes, dtype=torch.long, device=device).scatter(
                1, self.assignment.to(device), group
            )
            weights = self.sizes.to(device)
        # Not the later sizes: pruned tokens have left them.
        weights = weights / torch.zeros_like(sizes).scatter_add(1, group, weights).gather(1, group)
        weighted = hidden_states.float() * weights.unsqueeze(-1)
        return sum_rows(weighted, rows_of(group, sizes.shape[1]), sizes.shape[1]).to(hidden_states.dtype)

    def attention_bias(self, dtype: torch.dtype, proportional: bool) -> torch.Tensor | None:
        """What is added to the attention scores: log sizes of the keys (paper, section 3.2), and the masks.

        Returns:
            `torch.Tensor` of shape `(B, 1, 1, n)` (`(B, heads, n, n)` with a pairwise mask), or `None`.
        """
        bias, masked = None, False
        if proportional and self.sizes is not None:
            masked = self.log_sizes is not None and self.log_sizes.dtype == dtype
            bias = (self.log_sizes if masked else self.sizes.log().to(dtype))[:, None, None, :]
        lowest = torch.finfo(dtype).min
        if self.valid is not None and not masked:
            # Not a sum: log size on top of the lowest number would be infinite in half precision.
            bias = torch.zeros_like(self.valid, dtype=dtype)[:, None, None, :] if bias is None else bias
            bias = bias.masked_fill(~self.valid[:, None, None, :], lowest)
        if self.pairwise_mask is not None:
            bias = 0.0 if bias is None else bias
            if self.pairwise_mask.dtype == torch.bool:
                bias = torch.where(self.pairwise_mask, bias, lowest).to(dtype)
            else:
                bias = (self.pairwise_mask.float() + bias).clamp(min=lowest).to(dtype)
        return bias


#: Tokens that have not merged. What is known about them is read from the encoder's arguments once a layer merges.
UNTOUCHED = Tokens()
