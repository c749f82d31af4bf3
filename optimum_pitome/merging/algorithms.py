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

"""Matching algorithms: which tokens of a layer merge into which. Each is one entry of `ALGORITHMS`.

Pure tensor functions: nothing here knows transformers, reads a value back from the device, or lets a shape depend on
data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .counts import KeepRatio
from .energy import ENERGIES, pairwise_cosine
from .plan import MergePlan, gather_tokens, plan_from_pairs


@dataclass(frozen=True)
class MergeSpec:
    """What one layer does. Resolved from the user's configuration and the architecture before any forward runs.

    Attributes:
        ratio (`KeepRatio`): fraction of the mergeable tokens that stay.
        algorithm (`str`): key of `ALGORITHMS`.
        energy (`str`): key of `ENERGIES`.
        metric (`str`): `"keys"` (mean over the heads) or `"hidden_states"` (after attention).
        margin, alpha (`float`): parameters of the energy.
        proportional_attention (`bool`): whether attention adds the log size of the keys.
        size_weighted (`bool`): whether a token's weight in a mean is its size, or 1.
    """

    ratio: KeepRatio
    algorithm: str = "pitome"
    energy: str = "nearest"
    metric: str = "keys"
    margin: float = 0.9
    alpha: float = 1.0
    proportional_attention: bool = True
    size_weighted: bool = True


@dataclass(frozen=True)
class TokenMasks:
    """Which tokens may merge.

    Attributes:
        num_prefix_tokens (`int`): tokens at the front that never merge (CLS, distillation, registers).
        valid (`torch.BoolTensor` of shape `(B, N)`, *optional*): real tokens, not padding. `None`: all.
        special (`torch.BoolTensor` of shape `(B, N)`, *optional*): further tokens that never merge, per sample.
        max_special (`int`): no sample has more special tokens than this. Keeps the output length static.
    """

    num_prefix_tokens: int = 0
    valid: torch.Tensor | None = None
    special: torch.Tensor | None = None
    max_special: int = 0

    def mergeable(self) -> torch.Tensor | None:
        """`(B, N)` bool, or `None` where the prefix says it all."""
        if self.valid is None and self.special is None:
            return None
        reference = self.valid if self.valid is not None else self.special
        mergeable = torch.arange(reference.shape[1], device=reference.device) >= self.num_prefix_tokens
        mergeable = mergeable.expand_as(reference)
        if self.valid is not None:
            mergeable = mergeable & self.valid
        return mergeable if self.special is None else mergeable & ~self.special


MatchFunction = Callable[[torch.Tensor, MergeSpec, TokenMasks], "MergePlan | None"]

ALGORITHMS: dict[str, MatchFunction] = {}


def register_algorithm(name: str) -> Callable[[MatchFunction], MatchFunction]:
    """Adds a matching function under `name`; refuses a name that is taken."""

    def decorator(function: MatchFunction) -> MatchFunction:
        if name in ALGORITHMS:
            raise ValueError(f"The algorithm {name!r} is already registered ({ALGORITHMS[name].__module__}).")
        ALGORITHMS[name] = function
        return function

    return decorator


@torch.no_grad()
def match_tokens(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks | None = None) -> MergePlan | None:
    """Runs the algorithm of `spec`.

    Args:
        features (`torch.Tensor` of shape `(B, N, dim)`): what is compared (keys or hidden states), any floating dtype.
        spec (`MergeSpec`): the layer's settings.
        masks (`TokenMasks`, *optional*): special tokens and padding.

    Returns:
        [`MergePlan`], or `None` where nothing is to be merged (ratio 1, or too few tokens).
    """
    if spec.ratio.is_dense:
        return None
    return ALGORITHMS[spec.algorithm](features, spec, masks or TokenMasks())


@register_algorithm("pitome")
def match_pitome(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """PiToMe (paper, section 3.2): of the `2k` tokens of highest energy, the even ranks each join the odd rank they
    resemble most; all others are protected."""
    prefix, num_tokens = masks.num_prefix_tokens, features.shape[1]
    num_pairs = spec.ratio.num_removed(num_tokens - prefix)
    if num_pairs == 0:
        return None
    features = features[:, prefix:]
    mergeable = masks.mergeable()
    if mergeable is not None:
        mergeable = mergeable[:, prefix:]
    energy = ENERGIES[spec.energy](pairwise_cosine(features), mergeable, spec.margin, spec.alpha)
    candidates = rank_by_energy(energy, mergeable, 2 * num_pairs)
    source, pool = candidates[:, 0::2], candidates[:, 1::2]

    similarity = pairwise_cosine(gather_tokens(features, source), gather_tokens(features, pool))
    source_mask = None
    if mergeable is not None:
        pairs_of_sample = spec.ratio.num_removed(mergeable.sum(dim=1, keepdim=True))
        source_mask = torch.arange(num_pairs, device=features.device) < pairs_of_sample
        similarity = similarity.masked_fill(~source_mask.unsqueeze(1), -2.0)
    target = pool.gather(1, similarity.argmax(dim=-1))
    # Samples with fewer special tokens than `max_special` merge more: the length must fit the one with the most.
    num_kept = num_tokens - spec.ratio.num_removed(max(num_tokens - prefix - masks.max_special, 0))
    valid = masks.valid
    if valid is None and mergeable is not None:
        valid = torch.ones_like(masks.special)
    return plan_from_pairs(source + prefix, target + prefix, num_tokens, num_kept, source_mask, valid)


def rank_by_energy(energy: torch.Tensor, mergeable: torch.Tensor | None, num_candidates: int) -> torch.Tensor:
    """The tokens of highest energy, in order; equal energies in the order of the tokens.

    Args:
        energy (`torch.FloatTensor` of shape `(B, N)`): scores.
        mergeable (`torch.BoolTensor` of shape `(B, N)`, *optional*): the others rank last.
        num_candidates (`int`): how many to return.

    Returns:
        `torch.LongTensor` of shape `(B, num_candidates)`.
    """
    num_tokens = energy.shape[1]
    # Unique integer keys (energy in steps of 2**-22, then position): ties cannot depend on the sort, the batch or the
    # device, and no stable sort is needed, which would not export.
    position = torch.arange(num_tokens, device=energy.device)
    key = (energy * 2.0**22).round().long() * num_tokens + (num_tokens - 1 - position)
    if mergeable is not None:
        key = key.masked_fill(~mergeable, torch.iinfo(torch.int64).min // 2)
    return key.topk(num_candidates, dim=1).indices
