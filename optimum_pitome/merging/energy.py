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

"""Energy scores: how redundant a token is. High energy marks tokens that many others resemble, which are merged first.

Every function takes cosine similarities and returns one float32 score per token. Scores are only ever ranked within a
sample, so a constant offset or scale changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


EnergyFunction = Callable[[torch.Tensor, "torch.Tensor | None", float, float], torch.Tensor]


def pairwise_cosine(features: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine similarity of every token with every token, in float32 whatever the dtype (and outside autocast).

    Args:
        features (`torch.Tensor` of shape `(batch_size, num_tokens, dim)`): any floating dtype.
        others (`torch.Tensor` of shape `(batch_size, num_others, dim)`, *optional*): defaults to `features`.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_tokens, num_others)`.
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        features = torch.nn.functional.normalize(features.float(), dim=-1)
        others = features if others is None else torch.nn.functional.normalize(others.float(), dim=-1)
        return features @ others.transpose(-1, -2)


def _mean_over_tokens(values: torch.Tensor, mergeable: torch.Tensor | None) -> torch.Tensor:
    if mergeable is None:
        return values.mean(dim=-1)
    weights = mergeable.to(values.dtype).unsqueeze(1)
    return (values * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1.0)


def paper_energy(similarity, mergeable, margin, alpha):
    """Equation 4: `E_i = 1/N Σ_j f(cos_ij)`, `f(x) = x` for `x >= margin`, else `alpha * (exp(x - margin) - 1)`."""
    below = alpha * (torch.exp(similarity - margin) - 1.0)
    return _mean_over_tokens(torch.where(similarity >= margin, similarity, below), mergeable)


def elu_energy(similarity, mergeable, margin, alpha):
    """The released code's vision energy: the mean of `ELU(cos_ij - margin)`, continuous where equation 4 jumps."""
    return _mean_over_tokens(torch.nn.functional.elu(similarity - margin, alpha=alpha), mergeable)


def gaussian_energy(similarity, mergeable, margin, alpha):
    """The released code's text energy: the mean Gaussian kernel of the cosine distance, with `σ = 1 - margin`."""
    sigma = 1.0 - margin
    kernel = torch.exp(-0.5 * ((1.0 - similarity) / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))
    return _mean_over_tokens(kernel, mergeable)


def nearest_energy(similarity, mergeable, margin, alpha):
    """Similarity to the nearest other token. Margin and alpha play no part.

    Mutual nearest neighbours get bitwise equal scores (row and column maxima are both read, since a matrix product
    need not be symmetric in the last bit), hence neighbouring ranks, hence opposite sides of the matching.
    """
    num_tokens = similarity.shape[-1]
    itself = torch.eye(num_tokens, dtype=torch.bool, device=similarity.device)
    if mergeable is not None:
        itself = itself | ~(mergeable.unsqueeze(1) & mergeable.unsqueeze(2))
    similarity = similarity.masked_fill(itself, -2.0)
    return torch.maximum(similarity.amax(dim=-1), similarity.amax(dim=-2))


#: name → function of (similarity `(B, N, N)`, mergeable `(B, N)` bool or None, margin, alpha) → energy `(B, N)`.
ENERGIES: dict[str, EnergyFunction] = {
    "paper": paper_energy,
    "elu": elu_energy,
    "gaussian": gaussian_energy,
    "nearest": nearest_energy,
}
