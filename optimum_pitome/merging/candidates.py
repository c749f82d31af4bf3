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

"""What matching algorithms are given, and what they start from: masks, energies and ranks."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from ..methods import ENERGIES
from .combine import PLANS
from .constants import Constants, is_traced
from .counts import length_of
from .energy import MANY_TOKENS, NEVER, best_in_blocks, factors, nearest_in_blocks, product
from .exporting import is_open, rank_in_graph, rows_of_each, runtime
from .masks import TokenMasks
from .pairs import plan_from_pairs
from .plan import MergePlan
from .rows import gather_tokens
from .spec import MergeSpec


@dataclass(frozen=True)
class Candidates:
    """The tokens that every algorithm starts from, without the prefix.

    There are `B` samples of `M` tokens each. Indices here count from the end of the prefix.

    Attributes:
        features (`torch.Tensor` of shape `(B, M, dim)`): what is compared.
        mergeable (`torch.BoolTensor` of shape `(B, M)`, *optional*): tokens that may merge. `None`: all.
        counted (`torch.LongTensor` of shape `(B, 1)`, *optional*):
            Tokens of the sample that k is made of, where some of them are protected. `None`: those that may merge.
        num_pairs (`int`): k of a sample in which all `M` tokens may merge, at least 1.
        weights (`torch.FloatTensor` of shape `(B, M)`, *optional*): of each token in its distances. `None`: all 1.
        spec, masks: as the algorithm got them.
        constants ([`Constants`], *optional*): of the forward; `None` in a graph.
    """

    features: torch.Tensor
    mergeable: torch.Tensor | None
    counted: torch.Tensor | None
    num_pairs: int
    weights: torch.Tensor | None
    spec: MergeSpec
    masks: TokenMasks
    constants: Constants | None = None

    @classmethod
    def read(cls, features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> Candidates | None:
        """`None` where the ratio leaves nothing to merge."""
        prefix = masks.num_prefix_tokens
        num_pairs = masks.most_removed(spec.ratio, length_of(features))
        if is_open(num_pairs):
            num_pairs = torch.sym_max(num_pairs, 2)  # `pair_mask` leaves out those that there are not
        elif num_pairs <= 0:
            return None
        mergeable = counted = None
        if masks.exclude:
            masks.check(features)
            # One mask may stand for the whole batch.
            mergeable = masks.mergeable_after_prefix().expand(features.shape[0], -1)
        if masks.protected is not None:
            counted = mergeable.sum(dim=1, keepdim=True)
            unprotected = mergeable & ~masks.protected[:, prefix:]
            enough = unprotected.sum(dim=1, keepdim=True) > masks.num_removed(spec.ratio, counted, length_of(features))
            mergeable = torch.where(enough, unprotected, mergeable)
        constants = masks.constants or (None if is_traced() else Constants.of(features))
        weights = None
        if spec.importance > 0.0 and masks.attention is not None:
            floor = None if constants is None else constants.floor
            weights = importance_weights(masks.inner(masks.attention), mergeable, spec.importance, floor)
        return cls(masks.inner(features), mergeable, counted, num_pairs, weights, spec, masks, constants)

    def energy(self, spec: MergeSpec) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies `(B, M)`, and the similarities of all pairs `(B, M, M)`, useless between a token and itself or one
        that may not merge; float32."""
        similarity = product(*self.factors())
        energy = ENERGIES[spec.energy].score(similarity, self.mergeable, spec.margin, spec.alpha)
        # Ranking reads fixed-point numbers; only the order counts, and a large alpha would leave their range.
        return energy if spec.alpha <= 1.0 else energy / spec.alpha, similarity

    def scores(self, spec: MergeSpec) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[`~Candidates.energy`], with `None` for the similarities where all pairs at once would take too much memory:
        many tokens of which only the nearest counts."""
        if self.are_many and spec.energy == "nearest":
            return nearest_in_blocks(*self.factors(), self.mergeable), None
        return self.energy(spec)

    @property
    def are_many(self) -> bool:
        """Whether tokens are compared a few rows at a time. A graph compares all at once."""
        return self.constants is not None and self.features.shape[1] > MANY_TOKENS

    def best(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        refused: torch.Tensor | None = None,
        similarity: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How similar each of the tokens at `source` `(B, a)` is to the most similar one of those at `target`
        `(B, b)`, and which one of the `b` that is: `(B, a)` each.

        Args:
            refused (`torch.BoolTensor` of shape `(B, b)`, *optional*): targets that do not count.
            similarity (`torch.FloatTensor` of shape `(B, M, M)`, *optional*): of all pairs, where it is at hand.
        """
        if similarity is None and self.are_many:
            left, right = self.factors()
            return best_in_blocks(gather_tokens(left, source), gather_tokens(right, target), refused)
        if similarity is None:
            similarity = self.similarity(source, target)
        elif self.constants is None:
            if runtime() is not None:
                similarity = rows_of_each(similarity, source)
            else:
                similarity = similarity.gather(1, source.unsqueeze(2).expand(-1, -1, similarity.shape[2]))
            similarity = similarity.gather(2, target.unsqueeze(1).expand(-1, source.shape[1], -1))
        else:
            samples = self.constants.samples(source.shape[0]).unsqueeze(2)
            similarity = similarity[samples, source.unsqueeze(2), target.unsqueeze(1)]
        if refused is not None:
            similarity = similarity.masked_fill(refused.unsqueeze(1), NEVER)
        return similarity.max(dim=-1)

    def similarity(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Between the tokens at `source` `(B, a)` and at `target` `(B, b)`: `(B, a, b)`."""
        left, right = self.factors()
        return product(gather_tokens(left, source), gather_tokens(right, target))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two float32 matrices `(B, M, d)`: the product of the first with the second, transposed, is the similarity
        of all pairs."""
        return factors(self.features, self.weights, self.constants)

    def rank(self) -> torch.Tensor:
        """Position of each token among the sample's mergeable tokens, `(B, M)`."""
        batch_size, num_tokens = self.features.shape[:2]
        if self.mergeable is None:
            return self.steps(num_tokens).expand(batch_size, -1)
        return self.mergeable.long().cumsum(dim=1) - 1

    def steps(self, number: int) -> torch.Tensor:
        """0, 1, 2, …: `(number,)`, int64."""
        if self.constants is None:
            return torch.arange(number, device=self.features.device)
        return self.constants.steps[:number]

    @property
    def num_tokens(self) -> int:
        """N, the tokens that may merge and the others."""
        return self.masks.start + length_of(self.features) + self.masks.ends[1]

    def count(self) -> torch.Tensor:
        """The sample's tokens that may merge, `(B, 1)`."""
        return self._count

    @functools.cached_property
    def _count(self) -> torch.Tensor:
        if self.mergeable is None:
            batch_size, num_tokens = self.features.shape[:2]
            # The older ONNX exporter takes numbers without a dtype for floats.
            return torch.full((batch_size, 1), num_tokens, dtype=torch.int64, device=self.features.device)
        return self.mergeable.sum(dim=1, keepdim=True)

    def position_key(self) -> torch.Tensor:
        """Sorts the mergeable tokens to the front, in their order, `(B, M)`. No two are equal."""
        position = self.steps(self.features.shape[1]).expand(self.features.shape[0], -1)
        return position if self.mergeable is None else position + position.shape[1] * (~self.mergeable).long()

    def pairs_of_sample(self) -> torch.Tensor:
        """k of each sample, `(B, 1)`."""
        return self._pairs_of_sample

    @functools.cached_property
    def _pairs_of_sample(self) -> torch.Tensor:
        counted = self.count() if self.counted is None else self.counted
        return self.masks.num_removed(self.spec.ratio, counted, self.num_tokens)

    def room(self) -> torch.Tensor:
        """How many of the sample's tokens that may merge are left over as targets, `(B, 1)`: less than k only where
        tokens are protected."""
        return self.count() - self.pairs_of_sample()

    def pair_mask(self) -> torch.Tensor | None:
        """Which of `num_pairs` pairs, the best first, a sample merges: `(B, k)` bool, or `None` for all."""
        if self.mergeable is None and not is_open(self.num_pairs):
            return None
        return self.steps(self.num_pairs) < self.pairs_of_sample()

    def plan(self, source: torch.Tensor, target: torch.Tensor, source_mask: torch.Tensor | None) -> MergePlan:
        """The plan that merges `source[b, j]` into `target[b, j]`, both `(B, k)`, as `spec.combine` says.

        With `"prune_half"`, the pairs come in the order in which they should rather merge than be dropped.
        """
        masks, num_tokens = self.masks, self.num_tokens
        valid = masks.valid
        if valid is None and self.mergeable is not None:
            valid = torch.ones(self.mergeable.shape[0], num_tokens, dtype=torch.bool, device=self.features.device)
        dropped = None
        if self.spec.combine == "prune_half":
            pairs = self.pairs_of_sample()
            dropped = self.steps(self.num_pairs) >= pairs - pairs // 2
        return plan_from_pairs(
            source,
            target,
            num_tokens,
            masks.num_kept(self.spec.ratio, num_tokens),
            source_mask,
            valid,
            dropped,
            PLANS.get(self.spec.combine, MergePlan),
            self.constants,
            masks.start,
        )


def importance_weights(
    attention: torch.Tensor, mergeable: torch.Tensor | None, exponent: float, floor: torch.Tensor | None = None
) -> torch.Tensor:
    """What a token weighs in its distances, so that a pair weighs the geometric mean of the class token's attention to
    the two, relative to the mean over all, to the power of `exponent`.

    What the class token does not look at can merge with little loss, even if no other token is quite like it.

    Args:
        attention (`torch.FloatTensor` of shape `(B, M)`).
        mergeable (`torch.BoolTensor` of shape `(B, M)`, *optional*): the tokens that the mean is over. `None`: all.
        exponent (`float`): 0.5 measured best (docs/settings.md).
        floor (`torch.FloatTensor` of shape `(1,)`, *optional*): 0.2, where it lies on the device; `None` in a graph.

    Returns:
        `torch.FloatTensor` of shape `(B, M)`.
    """
    mean = _mean(attention, mergeable)
    # The floor keeps distances between tokens that nobody looks at from vanishing.
    if floor is not None:
        return torch.fmax(attention / mean, floor).pow(exponent / 2)  # which replaces 0 / 0, too
    return (attention / mean.clamp(min=torch.finfo(attention.dtype).tiny)).clamp(min=0.2).pow(exponent / 2)


def _mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return values.mean(dim=1, keepdim=True)
    return (values * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def rank_by_energy(
    energy: torch.Tensor, mergeable: torch.Tensor | None, num_candidates: int, level: torch.Tensor | None = None
) -> torch.Tensor:
    """The tokens of highest energy, in order; equal energies in the order of the tokens.

    Args:
        energy (`torch.FloatTensor` of shape `(B, N)`): scores.
        mergeable (`torch.BoolTensor` of shape `(B, N)`, *optional*): the others rank last.
        num_candidates (`int`): how many to return.
        level (`torch.LongTensor` of shape `(B, N)`, *optional*):
            Small numbers that come before the energy: tokens of a higher level rank first. `None`: all the same.

    Returns:
        `torch.LongTensor` of shape `(B, num_candidates)`.
    """
    energy = energy.float()  # which that of a user's algorithm need not be
    # In steps of 2**-22, and then in the order of the tokens: ties cannot depend on the sort, the batch or the device.
    if level is None and not is_traced():
        if energy.device.type in ("cpu", "cuda"):  # the same numbers in one launch; other devices lack it
            steps = torch.fake_quantize_per_tensor_affine(energy, 2.0**-22, 0, -(2**62), 2**62)
        else:
            steps = (energy * 2.0**22).round()
        if mergeable is not None:
            steps = steps.masked_fill_(~mergeable, -torch.inf)
        return steps.sort(dim=1, descending=True, stable=True).indices[:, :num_candidates]
    return rank_in_graph((energy * 2.0**22).round(), mergeable, num_candidates, level)
