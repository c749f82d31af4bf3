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

"""The spectral distance of a merge: how far merging moves the eigenvalues of the graph of tokens (paper, section 3.3).

A partition of `N` tokens into `n` groups makes three graphs. The *token graph* `W` `(N, N)` joins every two tokens.
The *coarse graph* `(n, n)` joins every two groups by the mean of `W` over their pairs of tokens, a token with itself
among them. The *lifted graph* `(N, N)` joins every two tokens by the weight between their groups. The spectral
distance is `sum |lambda_i - lambda_l,i|` over the sorted eigenvalues of the normalised Laplacians of token and lifted
graph.

The lemma: the lifted graph has the eigenvalues of the coarse graph, and 1 with multiplicity `N - n`. It holds where
the degree of a group counts the tokens: `d_i = sum_j s_j Wc_ij` with group sizes `s`, and the entries of the Laplacian
are `1[i = j] - sqrt(s_i s_j) Wc_ij / sqrt(d_i d_j)`. (The same matrix comes from *sums* in place of means with
ordinary degrees.) With means and `d_i = sum_j Wc_ij` it holds where all groups have one size, and not in general.

All of it is batched and runs in float64.
"""

from __future__ import annotations

import torch
from torch.nn import functional


#: What joins two tokens → how a table calls it. Equation 3 of the paper writes the distance, its proofs use both.
GRAPHS = {"distance": "W = 1 - cos", "similarity": "W = max(cos, 0)"}

#: Weights below this are rounding errors of a cosine.
_NOTHING = 1e-12


def token_graph(features: torch.Tensor, graph: str = "distance") -> torch.Tensor:
    """The weights `W` between all tokens.

    Args:
        features (`torch.Tensor` of shape `(..., N, dim)`): any floating dtype.
        graph (`str`, *optional*, defaults to `"distance"`):
            `"distance"`: `1 - cos`, equation 3 of the paper; a token is not joined with itself. `"similarity"`:
            `max(cos, 0)`, since the Laplacian has no square roots of negative degrees; a token is joined with itself
            by 1.

    Returns:
        `torch.DoubleTensor` of shape `(..., N, N)`, symmetric and not negative.

    Raises:
        ValueError: if there is no such graph.
    """
    if graph not in GRAPHS:
        raise ValueError(f"graph={graph!r} is not known. Accepted: {', '.join(map(repr, GRAPHS))}.")
    directions = functional.normalize(features.double(), dim=-1)
    cosines = directions @ directions.transpose(-1, -2)
    weights = 1 - cosines if graph == "distance" else cosines
    weights = (weights + weights.transpose(-1, -2)) / 2
    return torch.where(weights < _NOTHING, 0.0, weights)


def group_sizes(assignment: torch.Tensor, num_groups: int | None = None) -> torch.Tensor:
    """Counts the tokens of each group.

    `assignment` is `(..., N)` int64, and what is returned `(..., n)` float64. `n` is `num_groups`, by default the
    largest number in `assignment` plus one.
    """
    return _members(assignment, num_groups).sum(dim=-2)


def coarse_graph(weights: torch.Tensor, assignment: torch.Tensor, num_groups: int | None = None) -> torch.Tensor:
    """The mean weight between the tokens of every two groups.

    Args:
        weights (`torch.DoubleTensor` of shape `(..., N, N)`): a token graph.
        assignment (`torch.LongTensor` of shape `(..., N)`): the group of every token, as in `MergePlan.assignment`.
        num_groups (`int`, *optional*): n. Defaults to the largest number in `assignment` plus one.

    Returns:
        `torch.DoubleTensor` of shape `(..., n, n)`; 0 for a group without tokens.
    """
    members = _members(assignment, num_groups)
    means = members / members.sum(dim=-2, keepdim=True).clamp(min=1)
    return means.transpose(-1, -2) @ weights.double() @ means


def lifted_graph(weights: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor:
    """The coarse graph on all tokens again: every weight becomes the mean between the two groups. `(..., N, N)`."""
    members = _members(assignment, None)
    return members @ coarse_graph(weights, assignment) @ members.transpose(-1, -2)


def normalised_laplacian(weights: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
    """`I - D^-1/2 W D^-1/2`. A node without edges keeps the 1 of the identity.

    Args:
        weights (`torch.DoubleTensor` of shape `(..., N, N)`): symmetric, not negative.
        sizes (`torch.Tensor` of shape `(..., N)`, *optional*):
            Tokens that each node stands for, which degrees count then: the lemma needs it of a coarse graph. `None`:
            one each.

    Returns:
        `torch.DoubleTensor` of shape `(..., N, N)`.
    """
    weights = weights.double()
    if sizes is not None:
        scale = sizes.double().sqrt()
        weights = weights * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    # With sizes: of the scaled weights sqrt(s_i s_j) W_ij, the degree d_i = sum_j s_j W_ij.
    degrees = weights.sum(dim=-1) if sizes is None else (weights * scale.unsqueeze(-2)).sum(dim=-1) / scale
    inverse = torch.where(degrees > 0, degrees.rsqrt(), 0.0)
    identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return identity - weights * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)


def spectrum(weights: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
    """Computes the eigenvalues of the normalised Laplacian, ascending, in [0, 2], from `(..., N, N)` to `(..., N)`,
    float64.

    Args:
        weights, sizes: as [`normalised_laplacian`] takes them.
    """
    return torch.linalg.eigvalsh(normalised_laplacian(weights, sizes))


def spectral_distance(weights: torch.Tensor, assignment: torch.Tensor) -> torch.Tensor:
    """`sum |lambda_i - lambda_l,i|` over the sorted eigenvalues of a token graph and of its lifted graph.

    Args:
        weights (`torch.DoubleTensor` of shape `(..., N, N)`): a token graph.
        assignment (`torch.LongTensor` of shape `(..., N)`): the group of every token.

    Returns:
        `torch.DoubleTensor` of shape `(...)`: 0 where nothing merges, or only what is equal.
    """
    return (spectrum(weights) - spectrum(lifted_graph(weights, assignment))).abs().sum(dim=-1)


def _members(assignment: torch.Tensor, num_groups: int | None) -> torch.Tensor:
    """Which group each token is in, `(..., N, n)` float64 of 0 and 1."""
    if num_groups is None:
        num_groups = int(assignment.max()) + 1
    return functional.one_hot(assignment, num_groups).double()
