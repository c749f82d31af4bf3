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

Every function takes similarities, which it may overwrite, and returns one float32 score per token. Scores are only
ever ranked within a sample, so a constant offset or scale changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from ..methods import ENERGIES
from .constants import Constants, is_traced, make_signs, without_autocast
from .exporting import runtime, unit_vectors


#: Below any similarity: a weighted one goes down to `1 - N` among `N` tokens.
NEVER = -1e6


def pairwise_similarity(
    features: torch.Tensor,
    others: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    other_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Similarity of every token with every token, in float32 whatever the dtype (and outside autocast).

    The cosine; with weights, `1 - w_i w_j (1 - cos_ij)`: a distance between tokens that matter counts for more.

    Args:
        features (`torch.Tensor` of shape `(B, a, dim)`): any floating dtype.
        others (`torch.Tensor` of shape `(B, b, dim)`, *optional*): defaults to `features`.
        weights, other_weights (`torch.FloatTensor` of shape `(B, a)` and `(B, b)`, *optional*): about 1 on average.

    Returns:
        `torch.FloatTensor` of shape `(B, a, b)`.
    """
    with without_autocast(features.device.type):
        left, right = factors(features, weights)
        if others is not None:
            right = factors(others, other_weights)[1]
        return product(left, right)


def factors(
    features: torch.Tensor, weights: torch.Tensor | None = None, constants: Constants | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What [`pairwise_similarity`] multiplies, outside autocast: the `features` `(B, a, dim)` as the left and as the
    right factor."""
    features = features.float()
    if runtime() is not None:
        features, norm = unit_vectors(features), None
    else:
        norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp(min=1e-12)
    if weights is None:
        scaled = features if norm is None else features / norm
        return scaled, scaled
    # Two more dimensions make it one matrix product, without another pass over all pairs.
    weights = weights.unsqueeze(-1)
    scaled = features * (weights if norm is None else weights / norm)
    one = weights.new_ones(1) if constants is None else constants.one
    right = torch.cat([scaled, weights, one.expand_as(weights)], dim=-1)
    dim = right.shape[-1]
    return right * (make_signs(dim, right.device) if constants is None else constants.signs(dim)), right


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Of [`factors`] `(B, a, dim)` and `(B, b, dim)`: similarities `(B, a, b)`."""
    return torch.bmm(left, right.transpose(1, 2))


#: Samples with more tokens are compared a few rows at a time (64 MB of float32 hold all pairs of so many). The number
#: of tokens alone decides, not the batch.
MANY_TOKENS = 4096

#: So many numbers are held at once then: 32 MB of float32.
_BLOCK = 2**23


def _blocks(left: torch.Tensor, right: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """[`product`], a few rows at a time: which rows, and their similarities `(B, rows, b)`."""
    number = max(1, _BLOCK // max(1, right.shape[0] * right.shape[1]))
    for start in range(0, left.shape[1], number):
        rows = slice(start, start + number)
        yield rows, product(left[:, rows], right)


def nearest_in_blocks(left: torch.Tensor, right: torch.Tensor, mergeable: torch.Tensor | None) -> torch.Tensor:
    """[`nearest_energy`] from [`factors`] `(B, M, d)`, without holding all pairs: `(B, M)`."""
    in_rows, in_columns = [], left.new_full(left.shape[:2], NEVER)
    for rows, similarity in _blocks(left, right):
        similarity.diagonal(rows.start, dim1=-2, dim2=-1).fill_(NEVER)
        if mergeable is not None:
            similarity.masked_fill_(~(mergeable[:, rows].unsqueeze(2) & mergeable.unsqueeze(1)), NEVER)
        in_rows.append(similarity.amax(dim=-1))
        in_columns = torch.maximum(in_columns, similarity.amax(dim=-2))
    return torch.maximum(torch.cat(in_rows, dim=1), in_columns)


def best_in_blocks(
    left: torch.Tensor, right: torch.Tensor, refused: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each token of `left` `(B, a, d)`, the largest similarity to one of `right` `(B, b, d)` that is not `refused`
    `(B, b)`, and where it is: `(B, a)` each."""
    best = []
    for _, similarity in _blocks(left, right):
        if refused is not None:
            similarity.masked_fill_(refused.unsqueeze(1), NEVER)
        best.append(similarity.max(dim=-1))
    values, indices = zip(*best)
    return torch.cat(values, dim=1), torch.cat(indices, dim=1)


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
    if is_traced():  # where a write to a view does not export
        similarity = similarity + NEVER * torch.eye(similarity.shape[-1], device=similarity.device)
    else:
        similarity.diagonal(dim1=-2, dim2=-1).fill_(NEVER)
    if mergeable is not None:
        similarity = similarity.masked_fill(~(mergeable.unsqueeze(1) & mergeable.unsqueeze(2)), NEVER)
    return torch.maximum(similarity.amax(dim=-1), similarity.amax(dim=-2))


for _name, _function in {
    "paper": paper_energy,
    "elu": elu_energy,
    "gaussian": gaussian_energy,
    "nearest": nearest_energy,
}.items():
    ENERGIES[_name].score = _function
