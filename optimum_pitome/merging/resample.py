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

"""DCT (2305.15099): a sequence of tokens resampled to a shorter one, as one would shrink a picture.

No token is matched with another. Along the sequence of a sample's `M` mergeable tokens, every feature is transformed
by the orthonormal DCT-II, its lowest `n = M - k` frequencies are kept (`⌈M·ratio⌉`, the count of every other
algorithm), and transformed back at length `n`. `√(n/M)` keeps constants constant: without it a flat sequence would
change by the root of how much it shrinks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..methods import ALGORITHMS
from .candidates import Candidates
from .constants import without_autocast
from .masks import TokenMasks
from .opaque import empty, operator
from .rows import gather_tokens, narrowed, rows_of, scatter_tokens, take_rows
from .spec import MergeSpec


def _cosines(place: torch.Tensor, length: torch.Tensor, kept: torch.Tensor, num_frequencies: int) -> torch.Tensor:
    """`cos(π f (2 place + 1) / (2 length))` for frequency `f` below `kept`, and 0 elsewhere.

    Args:
        place (`torch.LongTensor` of shape `(B, N)`): negative where there is nothing.
        length, kept (`torch.LongTensor` of shape `(B, 1)`).
        num_frequencies (`int`): F, at least the largest of `kept`.

    Returns:
        `torch.FloatTensor` of shape `(B, F, N)`.
    """
    frequency = torch.arange(num_frequencies, device=place.device).view(1, -1, 1)
    place, length, kept = place.unsqueeze(1), length.unsqueeze(1), kept.unsqueeze(1)
    # A sine of half a period around 0, reduced as integers: errors of float32 angles would add up over a sequence, and
    # these cancel, since sin(-x) is -sin(x) to the last bit.
    angle = (frequency * (2 * place + 1)) % (4 * length)
    angle = length - torch.minimum(angle, 4 * length - angle)
    cosine = torch.sin(angle.float() * (math.pi / 2) / length)
    return cosine.masked_fill((place < 0) | (frequency >= kept), 0.0)


def _transforms(place: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of [`ResamplePlan`]: to the spectrum `(B, F, N)`, and back `(B, F, n)`, transposed."""
    length, kept = (values.amax(dim=1, keepdim=True) + 1 for values in (place, cell))
    length, kept = length.clamp(min=1), kept.clamp(min=1)
    num_frequencies = cell.shape[1]
    # √(2/M) and √(2/n) of the two transforms and √(n/M) of the scaling, together; less by √2 each for frequency 0.
    weight = 2.0 - (torch.arange(num_frequencies, device=place.device) == 0).float()
    forward = _cosines(place, length, kept, num_frequencies) * (weight.view(1, -1, 1) / length.unsqueeze(1))
    return forward, _cosines(cell, kept, kept, num_frequencies)


def _resample_gradient(
    gradient: torch.Tensor, kept: torch.Tensor, place: torch.Tensor, cell: torch.Tensor
) -> torch.Tensor:
    """The gradient of what [`_resample`] returns `(B, n, dim)`, as that of its hidden states `(B, N, dim)`."""
    accumulated = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    resampled = (cell >= 0).unsqueeze(-1)
    passed = scatter_tokens(accumulated.masked_fill(resampled, 0.0), kept, place.shape[1])
    with without_autocast(gradient.device.type):
        forward, back = (matrix.to(accumulated.dtype) for matrix in _transforms(place, cell))
        spectrum = back @ accumulated
        return (forward.transpose(1, 2) @ spectrum + passed).to(gradient.dtype)


@operator(
    "resample",
    fake=lambda hidden_states, kept, *_: empty(hidden_states, (*kept.shape, hidden_states.shape[2])),
    save=lambda hidden_states, *others: others,
    gradient=operator(
        "resample_backward",
        fake=lambda gradient, kept, place, cell: empty(
            gradient, (gradient.shape[0], place.shape[1], gradient.shape[2])
        ),
    )(_resample_gradient),
)
def _resample(
    hidden_states: torch.Tensor, kept: torch.Tensor, place: torch.Tensor, cell: torch.Tensor
) -> torch.Tensor:
    """See [`ResamplePlan.merge`]."""
    accumulate = torch.promote_types(hidden_states.dtype, torch.float32)
    with without_autocast(hidden_states.device.type):
        forward, back = (matrix.to(accumulate) for matrix in _transforms(place, cell))
        resampled = back.transpose(1, 2) @ (forward @ hidden_states.to(accumulate))
    return torch.where(
        (cell >= 0).unsqueeze(-1), narrowed(resampled, hidden_states), gather_tokens(hidden_states, kept)
    )


@operator("resample_sizes", fake=lambda sizes, kept, *_: empty(sizes, kept.shape))
def _resample_sizes(sizes: torch.Tensor, kept: torch.Tensor, place: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """See [`ResamplePlan.merge_sizes`]."""
    mass = (sizes * (place >= 0)).sum(dim=1, keepdim=True)
    number = (cell.amax(dim=1, keepdim=True) + 1).clamp(min=1)
    return torch.where(cell >= 0, mass / number, sizes.gather(1, kept))


@dataclass
class ResamplePlan:
    """A linear map from `N` tokens to `n`, with the fields and methods of [`MergePlan`] that a layer uses.

    Output slots stand where the tokens of `kept` stood: a sample's resampled sequence is spread evenly over the places
    of its mergeable tokens, and each slot has the place (and rotary embedding, and pairwise mask) of the token there.

    Attributes:
        kept (`torch.LongTensor` of shape `(B, n)`): index of the token whose place each output slot takes, in order.
        assignment (`torch.LongTensor` of shape `(B, N)`): the output slot nearest to each input token.
        place (`torch.LongTensor` of shape `(B or 1, N)`):
            Where each token stands in the sample's sequence, from 0; -1 for those that take no part.
        cell (`torch.LongTensor` of shape `(B or 1, n)`):
            The same of the output slots and the new sequence; -1 for slots that hold the token of `kept` unchanged.
        valid (`torch.BoolTensor` of shape `(B, n)`, *optional*): which output slots hold a real token. `None`: all.
    """

    kept: torch.Tensor
    assignment: torch.Tensor
    place: torch.Tensor
    cell: torch.Tensor
    valid: torch.Tensor | None = None

    def merge(
        self, hidden_states: torch.Tensor, weights: torch.Tensor | None = None, totals: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, N, dim)` to `(B, n, dim)`. Weights play no part: the tokens of a resampled sequence have one size."""
        return _resample(hidden_states, self.kept, self.place, self.cell)

    def merge_sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        """`(B, N)` to `(B, n)`: the sizes of the sequence, spread evenly over the new one; `M / n` at first.

        Every new token stands for as many old ones. In proportional attention the sequence as a whole then weighs what
        it weighed before, against the class token and other special tokens.
        """
        return _resample_sizes(sizes, self.kept, self.place, self.cell)

    @property
    def rows(self) -> torch.Tensor:
        """As [`MergePlan.rows`]."""
        return rows_of(self.assignment, self.num_kept)

    @property
    def num_kept(self) -> int:
        return self.kept.shape[1]

    def unmerge(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Back to `N` tokens: each original token gets the vector of the slot nearest to it.

        The transposed transform (the spectrum, filled up with zeros) would give a smooth sequence, but its matrices
        would have to be kept for every layer, and it rings at jumps; indices compose over layers to one gather.
        """
        return take_rows(hidden_states, self.rows)


def match_dct(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> ResamplePlan | None:
    """DCT: see the top of this file. It compares nothing and reads the shape of `features` only.

    Protected tokens are no part of the sequence, so the others make up for them, as in every other algorithm.
    """
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    batch_size, (start, end) = features.shape[0], (masks.start, masks.ends[1])
    if candidates.mergeable is None:
        # One plan serves all samples, and with it one matrix.
        candidates = replace(
            candidates, features=features.new_empty((1, *candidates.features.shape[1:])), constants=None
        )
    rank, old = candidates.rank(), candidates.count()
    new = candidates.room()
    # Where a sample has nothing to merge it stays bit for bit, as it would alone.
    takes_part = (new < old) if candidates.mergeable is None else candidates.mergeable & (new < old)
    old, new = old.clamp(min=1), new.clamp(min=1)
    # In integers: the cell that a token's middle lies in, and the token that the middle of its cell lies in.
    cell = ((2 * rank + 1) * new) // (2 * old)
    middle = ((2 * cell + 1) * old) // (2 * new)
    order = torch.argsort(candidates.position_key(), dim=1)
    goes = takes_part & (middle != rank)
    # The tokens that go, first and in their order; so many as `pairs_of_sample` says.
    source = torch.argsort(candidates.position_key() + 4 * order.shape[1] * (~goes).long(), dim=1)
    source = source[:, : candidates.num_pairs]
    middle = middle.gather(1, source)
    target = order.gather(1, middle.masked_fill(middle < 0, 0))
    plan = candidates.plan(source, target, candidates.pair_mask())
    place, cell = (
        torch.nn.functional.pad(of_each.masked_fill(~takes_part, -1), (start, end), value=-1)
        for of_each in (rank, cell)
    )
    cell = cell.gather(1, plan.kept)
    if plan.valid is not None:
        cell = cell.masked_fill(~plan.valid, -1)
    kept, assignment = plan.kept.expand(batch_size, -1), plan.assignment.expand(batch_size, -1)
    return ResamplePlan(kept, assignment, place, cell, plan.valid)


ALGORITHMS["dct"].match = match_dct
