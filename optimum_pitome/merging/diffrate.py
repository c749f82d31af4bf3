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

"""DiffRate (2305.17997): the class token's attention says what goes; part of it is dropped, the rest merges.

The paper learns for each layer how many tokens are dropped and how many merge. Here nothing is learned: the ratio says
how many go, and half of them are dropped.
"""

from __future__ import annotations

import torch

from ..methods import ALGORITHMS
from .candidates import Candidates, rank_by_energy
from .masks import TokenMasks
from .plan import MergePlan
from .spec import MergeSpec


#: Attention is about 1 / N: in the steps that energies are ranked in, much of it would be equal. A power of two, so
#: that the product is exact.
_FINER = 2.0**10


def match_diffrate(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """Tokens in the order of the class token's attention: the last `k // 2` are dropped, and those before them, `k` in
    all, each merge into the most similar of the tokens that stay.

    What is dropped leaves the sizes, too. [`MergePlan.unmerge`] gives it the vector of the token that it resembles
    most, as if it had merged.

    Raises:
        ValueError: if the masks have no `attention`.
    """
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    if masks.attention is None:
        raise ValueError(
            "algorithm='diffrate' ranks tokens by the attention of the class token, and it was given none: pass "
            "TokenMasks(attention=...)."
        )
    num_tokens = candidates.features.shape[1]
    attention = masks.inner(masks.attention) * _FINER
    order = rank_by_energy(attention, candidates.mergeable, num_tokens)
    # The pairs of a sample end where its mergeable tokens end.
    stay = candidates.room()
    pair = candidates.steps(candidates.num_pairs)
    # Pairs that a sample does not have name tokens that stay, each once.
    source = order.gather(1, (stay + pair) % num_tokens)
    _, target = candidates.best(source, order, candidates.steps(num_tokens) >= stay)
    target = order.gather(1, target)
    return candidates.plan(source, target, candidates.pair_mask())


ALGORITHMS["diffrate"].match = match_diffrate
