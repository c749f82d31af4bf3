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

"""What becomes of the tokens of a group: one kind of [`MergePlan`] each, where it is not their mean; longer means."""

from __future__ import annotations

import torch

from .opaque import operator
from .plan import MergePlan
from .rows import gather_tokens, narrowed


class TargetPlan(MergePlan):
    """ToFu's early layers (2312.01026): the sources go, the vectors of their destinations stay.

    Sizes add up, as in a merge: the destination was chosen for its similarity and from now on stands for both, so that
    proportional attention pays it what the two would have got.
    """

    def merge(
        self, hidden_states: torch.Tensor, weights: torch.Tensor | None = None, totals: torch.Tensor | None = None
    ) -> torch.Tensor:
        return gather_tokens(hidden_states, self.kept)


class PruningPlan(TargetPlan):
    """The sources are dropped: vectors and sizes of their destinations stay."""

    def merge_sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        return gather_tokens(sizes, self.kept)


class MlerpPlan(MergePlan):
    """ToFu's later layers (2312.01026): the direction of the weighted mean, the norm of the longest of the group.

    A mean is shorter than what it is made of, and such tokens lie outside of what later layers have seen. The paper
    has pairs, and of these the larger norm; several that join one token are a pair of more.
    """

    def merge(
        self, hidden_states: torch.Tensor, weights: torch.Tensor | None = None, totals: torch.Tensor | None = None
    ) -> torch.Tensor:
        given = hidden_states
        hidden_states = given.to(torch.promote_types(given.dtype, torch.float32))
        mean = super().merge(hidden_states, weights, totals)
        norm = torch.linalg.vector_norm(hidden_states, dim=-1)
        longest = gather_tokens(norm, _longest(norm.detach(), *self._pairs))
        # Where vectors cancel, what is left is rounding: it is not blown up beyond this, and neither is its gradient.
        norm_of_mean = torch.linalg.vector_norm(mean, dim=-1)
        floor = (longest * 1e-3).clamp(min=torch.finfo(norm.dtype).tiny)
        return narrowed(mean * (longest / torch.maximum(norm_of_mean, floor)).unsqueeze(-1), given)


@operator(
    "longest",
    fake=lambda norm, kept, *_: torch.empty_like(kept),
    schema="(Tensor norm, Tensor kept, Tensor source, Tensor destination, Tensor? source_mask) -> Tensor",
)
@torch.no_grad()
def _longest(norm: torch.Tensor, *pairs: torch.Tensor | None) -> torch.Tensor:
    """The token of each group with the largest `norm` `(B, N)`: `(B, n)`, int64.

    An index, so that gradients take the way of a gather, which there is an operator for.
    """
    kept, source, destination, source_mask = pairs
    own, moved = norm.gather(1, kept), norm.gather(1, source)
    if source_mask is not None:
        moved = moved.masked_fill(~source_mask, -1.0)
    largest = own.scatter_reduce(1, destination, moved, "amax")
    # Of equal ones the last, so that nothing depends on the order of writing.
    token = source.masked_fill(moved < largest.gather(1, destination), -1)
    return kept.masked_fill(own < largest, -1).scatter_reduce(1, destination, token, "amax")


#: [`MergeSpec.combine`] → the class of the plan; [`MergePlan`] itself for those that are not here.
PLANS: dict[str, type[MergePlan]] = {"prune": PruningPlan, "target": TargetPlan, "mlerp": MlerpPlan}


def keep_norm(
    plan: MergePlan, hidden_states: torch.Tensor, merged: torch.Tensor, share: float, *weights: torch.Tensor
) -> torch.Tensor:
    """Means with a longer norm: `share` 0 leaves them, and 1 gives them the mean of the norms of their group.

    The mean of vectors that point elsewhere is shorter than they are. A likely reason why that matters, which was not
    tested by itself: later layers add as much to it as to any token, and turn it further (docs/means.md).

    Args:
        plan (`MergePlan`): of the layer.
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`): before the merge.
        merged (`torch.Tensor` of shape `(B, n, dim)`): what `plan` made of them, and `weights`.
        share (`float`): in (0, 1], the exponent of the ratio of the two norms.
        weights (`torch.Tensor`): what [`MergePlan.merge`] took.

    Returns:
        `torch.Tensor` of the shape and dtype of `merged`. Tokens that nothing joined are the same, bit for bit.
    """
    wide = {"dim": -1, "keepdim": True, "dtype": torch.promote_types(merged.dtype, torch.float32)}
    norm, own = (torch.linalg.vector_norm(vectors, **wide) for vectors in (hidden_states, merged))
    ratio = plan.merge(norm, *weights) / own.clamp(min=torch.finfo(own.dtype).tiny)
    # No mean gets shorter. Where vectors cancel, what is left is rounding: it is not blown up beyond this.
    return (merged * ratio.clamp(min=1.0, max=1e3).pow(share)).to(merged.dtype)
