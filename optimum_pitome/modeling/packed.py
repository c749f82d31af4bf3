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

"""Layers that get all samples one after the other, without padding: `(T, dim)`, and where each of them begins.

Samples of several lengths cannot merge in that form without sizes that depend on data. So such a layer lays them side
by side, padded, and merges as every other; what it returns is packed again, every original token with the vector of
its group. That costs two copies of the hidden states, which is little beside the layer's products of matrices, and
whatever reads them between two layers or after the last one (modules that put neighbours together, features for the
layers of a decoder) finds the grid that it knows.

Where some layers attend in windows and others to whole samples, tokens merge inside the windows only: `cells` says
where those begin. To a layer that attends to a whole sample its windows are one sequence.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch

from ..merging import gather_tokens
from .attention import MergingAttention
from .call import CALL_KEY, AttentionCall
from .layer import MergingLayer
from .state import STATE_KEY, MergeState
from .tokens import Tokens


#: Keyword argument of a layer: the boundaries of the cells in which tokens merge, where it may attend to several.
CELLS_KEY = "pitome_cells"


@dataclass(frozen=True)
class Packing:
    """How `B` pieces of up to `N` items lie in a sequence of `T`.

    Attributes:
        lengths (`list[int]`): of the pieces.
        places (`torch.LongTensor` of shape `(B, N)`, *optional*):
            Where in the sequence each item is; for padding, some item of the same piece. `None`: all have one length.
        rows (`torch.LongTensor` of shape `(T,)`, *optional*): where in the flattened batch each item is.
        real (`torch.BoolTensor` of shape `(B, N)`, *optional*): what is no padding.
    """

    lengths: list[int]
    places: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    real: torch.Tensor | None = None

    @classmethod
    def of(cls, boundaries: torch.Tensor) -> Packing:
        """From the cumulative lengths `(B + 1,)`, which begin with 0."""
        begins, lengths = boundaries[:-1].long().unsqueeze(1), boundaries.diff().long().unsqueeze(1)
        listed = lengths.flatten().tolist()
        if len(set(listed)) == 1:
            return cls(listed)
        offsets = torch.arange(max(listed), device=boundaries.device)
        real = offsets < lengths
        pieces = torch.arange(len(listed), device=boundaries.device).repeat_interleave(
            lengths.flatten(), output_size=sum(listed)
        )
        rows = torch.arange(sum(listed), device=boundaries.device) + pieces * max(listed) - begins.flatten()[pieces]
        return cls(listed, begins + torch.minimum(offsets, lengths - 1), rows, real)

    @property
    def num_tokens(self) -> int:
        """`N`."""
        return max(self.lengths)

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """`(T, ...)` to `(B, N, ...)`."""
        return values.unflatten(0, (len(self.lengths), -1)) if self.places is None else values[self.places]

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, N, ...)` to `(T, ...)`."""
        values = values.flatten(0, 1)
        return values if self.rows is None else values.index_select(0, self.rows)


class PackedLayer(MergingLayer):
    """A layer that is called with packed hidden states, `cu_seqlens` and `position_embeddings`. Its two halves get
    them padded, `(B, n, dim)`, where they run after [`forward`], and packed where somebody calls them."""

    passes_kwargs = False
    returns_every_token = True

    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs):
        state: MergeState | None = kwargs.get(STATE_KEY)
        cells = kwargs.pop(CELLS_KEY, cu_seqlens)
        if state is None:
            return super().forward(hidden_states, cu_seqlens, position_embeddings, **kwargs)
        index, packing = self.pitome_index, Packing.of(cells)
        tokens = state.entering(index).to(hidden_states.device)
        if tokens.sizes is None and not state.merges(index, packing.num_tokens):
            state.slots[index + 1] = tokens
            del kwargs[STATE_KEY]
            return super().forward(hidden_states, cu_seqlens, position_embeddings, **kwargs)
        kwargs[STATE_KEY] = _knowing(state, packing.real)
        if cells is not cu_seqlens:
            kwargs[CELLS_KEY] = cells
        hidden_states = super().forward(
            _compress(tokens, packing, hidden_states),
            cu_seqlens,
            position_embeddings=tuple(packing.unpack(values) for values in position_embeddings),
            **kwargs,
        )
        return packing.pack(state.slots[index + 1].unmerge(hidden_states))


def _compress(tokens: Tokens, packing: Packing, hidden_states: torch.Tensor) -> torch.Tensor:
    """One vector for each of the `tokens`, `(B, n, dim)`, from packed ones `(T, dim)` that are equal in each group."""
    hidden_states = packing.unpack(hidden_states)
    if packing.real is None or tokens.rows is None:
        return tokens.compress(hidden_states)
    # Not of the padding, which belongs to some group, too, and has another vector.
    samples, num_tokens = tokens.sizes.shape
    groups = tokens.assignment.masked_fill(~packing.real, num_tokens)
    places = torch.arange(packing.num_tokens, device=groups.device).expand_as(groups)
    members = places.new_zeros(samples, num_tokens + 1).scatter(1, groups, places)[:, :-1]
    return gather_tokens(hidden_states, members)


def _knowing(state: MergeState, valid: torch.Tensor | None) -> MergeState:
    """A forward, its slots included, for a layer that knows by itself which of its tokens `(B, N)` are real."""
    read_tokens, state = state.read_tokens, copy.copy(state)
    state.read_tokens = lambda: replace(read_tokens(), valid=valid)
    return state


class PackedAttention(MergingAttention):
    """Attention of a [`PackedLayer`]."""

    def attend_packed(self, query, key, value, cu_seqlens, kwargs, **settings):
        """[`~MergingAttention.attend`] among the tokens of each of the samples that `cu_seqlens` tells apart.

        Args:
            query, key, value (`torch.Tensor` of shape `(B, heads, n, head_dim)`): of `B` samples, or of the cells of
                fewer samples.
            cu_seqlens (`torch.Tensor`): boundaries of the samples in the packed sequence of original tokens.
            kwargs (`dict`): the keyword arguments of `forward`.
        """
        call, cells = kwargs[CALL_KEY], kwargs.get(CELLS_KEY)
        real = call.tokens.valid
        mask = None if real is None else real[:, None, None, :]
        if cells is None or len(cells) == len(cu_seqlens):
            return self.attend(query, key, value, mask, kwargs, **settings)
        grouping = Grouping(Packing.of(torch.searchsorted(cells, cu_seqlens)), query.shape[2])
        query, key, value = (grouping.group(values, -2) for values in (query, key, value))
        kwargs = {**kwargs, CALL_KEY: GroupedCall(call, grouping)}
        output, weights = self.attend(query, key, value, mask, kwargs, **settings)
        return grouping.separate(output, -3), weights


@dataclass(frozen=True)
class Grouping:
    """The cells of a sample as one sequence: `cells` says how many each sample has; all have `num_tokens` tokens."""

    cells: Packing
    num_tokens: int

    def group(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """`(cells, ..., n, ...)` to `(samples, ..., N · n, ...)`."""
        values = self.cells.unpack(values.movedim(dim, 1))
        return values.flatten(1, 2).movedim(1, dim)

    def separate(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """Undoes `group`."""
        values = values.movedim(dim, 1).unflatten(1, (-1, self.num_tokens))
        return self.cells.pack(values).movedim(1, dim)


@dataclass(frozen=True)
class GroupedCall:
    """The [`AttentionCall`] of a layer that attends to whole samples, for attention over the cells of each."""

    call: AttentionCall
    grouping: Grouping

    @property
    def merged(self) -> bool:
        """See [`AttentionCall`]."""
        return self.call.merged

    @property
    def is_padded(self) -> bool:
        """See [`AttentionCall`]."""
        return self.call.is_padded or self.grouping.cells.real is not None

    @property
    def is_pairwise(self) -> bool:
        """See [`AttentionCall`]."""
        return self.call.is_pairwise

    def log_sizes(self) -> torch.Tensor | None:
        """See [`AttentionCall`]; `(samples, N · n)`."""
        log_sizes = self.call.log_sizes()
        return None if log_sizes is None else self.grouping.group(log_sizes, -1)

    def real_tokens(self) -> torch.Tensor | None:
        """See [`AttentionCall`]; `(samples, N · n)`."""
        cells, number = self.grouping.cells.real, self.grouping.num_tokens
        cells = None if cells is None else cells.repeat_interleave(number, 1)
        real = self.call.real_tokens()
        real = None if real is None else self.grouping.group(real, -1)
        return cells if real is None else real if cells is None else real & cells

    def attention_mask(self, attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """See [`AttentionCall`]; `(samples, 1, 1, N · n)`."""
        mask, real = self.call.attention_mask(attention_mask, dtype), self.grouping.cells.real
        if mask is None and real is None:
            return None
        if mask is None:
            mask = real.new_ones(sum(self.grouping.cells.lengths), 1, 1, self.grouping.num_tokens)
        mask = self.grouping.group(mask, -1)
        if real is None:
            return mask
        lowest = False if mask.dtype == torch.bool else torch.finfo(dtype).min
        return mask.masked_fill(~real.repeat_interleave(self.grouping.num_tokens, 1)[:, None, None, :], lowest)

    def bias_to_record(self, key: torch.Tensor) -> None:
        """See [`AttentionCall`]."""

    def record(self, query: torch.Tensor, key: torch.Tensor, *args) -> None:
        """See [`AttentionCall`]. What tokens are compared by is the keys: there is no class token in a cell."""
        self.call.record(self.grouping.separate(query, -2), self.grouping.separate(key, -2), *args)
