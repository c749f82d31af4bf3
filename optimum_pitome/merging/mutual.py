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

"""Mutual nearest neighbours: every token points at the one that it resembles most, and the closest pairs merge."""

from __future__ import annotations

import torch

from ..methods import ALGORITHMS
from .candidates import Candidates, rank_by_energy
from .energy import NEVER, product
from .masks import TokenMasks
from .plan import MergePlan
from .spec import MergeSpec


#: Every look along the pointers doubles the path that is known: enough for groups of 2**16 tokens.
_LOOKS = 16


def match_mutual(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """Two tokens that are each other's nearest merge before any others do, the later one into the earlier; of the
    rest, those join their nearest token that resemble it most.

    The idea is that of mutual pair merging (2604.05718), which merges such pairs and nothing else, however many there
    are. Here their number is static: the `k` best, and where there are fewer, further tokens follow. Similarity grows
    along a path of nearest neighbours, so every path ends in a mutual pair: groups are trees, and what stays of each
    is the earlier token of that pair.
    """
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    closeness, nearest = _nearest(candidates)
    num_tokens, num_pairs = nearest.shape[1], candidates.num_pairs
    position = candidates.steps(num_tokens).expand_as(nearest)
    mutual = nearest.gather(1, nearest) == position
    earlier = mutual & (position < nearest)
    level = torch.where(earlier, 0, 1 + mutual.long())
    if candidates.counted is None:
        order = rank_by_energy(closeness, candidates.mergeable, num_pairs, level)
    else:
        # Where many are protected, k can be so large that of some pairs nothing stays: those join the last token.
        order = rank_by_energy(closeness, candidates.mergeable, num_tokens, level)
        last = order.gather(1, (candidates.count() - 1).clamp(min=0))
        nearest = torch.where(earlier, last, nearest)
    source, source_mask = order[:, :num_pairs], candidates.pair_mask()
    joins = nearest.gather(1, source)
    if source_mask is not None:
        joins = torch.where(source_mask, joins, source)
    target = position.scatter(1, source, joins)
    for _ in range(_LOOKS):
        target = target.gather(1, target)
    return candidates.plan(source, target.gather(1, source), source_mask)


def _nearest(candidates: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
    """How much each token resembles the one that it resembles most, and which that is, both `(B, M)`."""
    similarity = product(*candidates.factors())
    # Bitwise symmetric, which a matrix product need not be: otherwise paths could turn in circles.
    similarity = torch.maximum(similarity, similarity.transpose(1, 2))
    similarity = similarity + NEVER * torch.eye(similarity.shape[1], device=similarity.device)
    if candidates.mergeable is not None:
        similarity = similarity.masked_fill(~candidates.mergeable.unsqueeze(1), NEVER)
    return similarity.max(dim=-1)


ALGORITHMS["mutual"].match = match_mutual
