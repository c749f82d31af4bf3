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

"""[`LayerGroups`]: which tokens one layer of one sample has merged, and what it decided that by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..merging import Candidates, rank_by_energy
from ..methods import ALGORITHMS
from ..modeling.record import LayerRecord


@dataclass(frozen=True)
class LayerGroups:
    """One sample after one layer: `N` original tokens, special ones and padding included, in `n` tokens.

    Attributes:
        index (`int`): of the layer.
        groups (`numpy.ndarray` of shape `(N,)`, int64):
            The token, 0 to `n - 1`, that each original token is part of; -1 for padding.
        sizes (`numpy.ndarray` of shape `(n,)`, float32): what each of these weighs in attention; 0: no real token.
        energy (`numpy.ndarray` of shape `(N,)`, float32, *optional*):
            How redundant the layer found the token that each was part of before it: of high energy merge first. NaN
            where no score counts. `None`: the algorithm reads none, or nothing merged.
        importance (`numpy.ndarray` of shape `(N,)`, float32, *optional*):
            The class token's attention to the same, where the layer weighs by it. NaN for what may not merge.
        protected (`numpy.ndarray` of shape `(N,)`, bool):
            What the layer leaves alone: special tokens, and those whose energy is too low to take part.
        dropped (`numpy.ndarray` of shape `(N,)`, bool):
            What this layer or an earlier one dropped. It stands with the token whose vector it gets in the end.
    """

    index: int
    groups: np.ndarray
    sizes: np.ndarray
    energy: np.ndarray | None
    importance: np.ndarray | None
    protected: np.ndarray
    dropped: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Real tokens that leave the layer."""
        return int((self.sizes > 0).sum())

    @property
    def members(self) -> np.ndarray:
        """How many original tokens are in the group of each, `(N,)`, int64; 0 for padding. What was dropped does not
        count."""
        counts = np.bincount(self.groups[(self.groups >= 0) & ~self.dropped], minlength=len(self.sizes))
        return np.where(self.groups >= 0, counts[self.groups], 0)


class RunTrace:
    """The layers of one forward of one encoder, noted as they run."""

    def __init__(self):
        self._layers: dict[int, list[LayerGroups]] = {}
        self._padding: torch.Tensor | None = None
        self._dropped: torch.Tensor | None = None

    def __bool__(self) -> bool:
        return bool(self._layers)

    @torch.no_grad()
    def note(self, record: LayerRecord) -> None:
        """What a layer tells whoever watches it."""
        batch_size, num_tokens = record.features.shape[:2]
        before = record.tokens.assignment
        if self._padding is None:  # the first layer that can merge: nothing has
            padding = torch.zeros(batch_size, num_tokens, dtype=torch.bool, device=record.features.device)
            self._padding = padding if record.tokens.valid is None else padding | ~record.tokens.valid
            self._dropped = torch.zeros_like(self._padding)
        device = record.features.device
        padding, dropped = self._padding.to(device), self._dropped.to(device)
        absent = padding | dropped  # when the layer began
        if before is None:
            before = torch.arange(num_tokens, device=device).expand(batch_size, -1)
        after, sizes = before, record.tokens.sizes
        if record.plan is not None:
            merged = record.tokens.merged(record.plan)
            after, sizes = merged.assignment, merged.sizes
            counted = _counted(record)
            if counted is not None:
                dropped = (dropped | ~counted.gather(1, before)) & ~padding
        if sizes is None:
            sizes = (~padding).float()
        self._dropped = dropped
        energy, importance, protected = (
            None if values is None else values.expand(batch_size, -1).gather(1, before) for values in scores(record)
        )
        found = []
        for sample in range(batch_size):
            arrays = [
                None if values is None else values[sample].cpu().numpy()
                for values in (
                    after.masked_fill(padding, -1),
                    sizes.float(),
                    _blank(energy, absent),
                    _blank(importance, absent),
                    protected & ~absent,
                    dropped,
                )
            ]
            found.append(LayerGroups(record.index, *arrays))
        self._layers[record.index] = found

    def samples(self, num_layers: int) -> list[tuple[LayerGroups, ...]]:
        """Of every sample all layers: those that could not merge pass on what they got."""
        found = []
        for sample, first in enumerate(self._layers[min(self._layers)]):
            nothing = np.zeros_like(first.dropped)
            start = np.arange(len(nothing))
            start[first.groups < 0] = -1
            groups, sizes, dropped = start, (start >= 0).astype(np.float32), nothing
            layers = []
            for index in range(num_layers):
                if index in self._layers:
                    layer = self._layers[index][sample]
                    groups, sizes, dropped = layer.groups, layer.sizes, layer.dropped
                else:
                    layer = LayerGroups(index, groups, sizes, None, None, nothing, dropped)
                layers.append(layer)
            found.append(tuple(layers))
        return found


def scores(record: LayerRecord) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """What a layer of `n` tokens ranked them by, as its algorithm does it.

    Returns:
        The energy and the class token's attention `(B, n)` float32, NaN where they do not count, `None` where the
        layer reads none; and which tokens it leaves alone, `(B, n)` or `(1, n)` bool.
    """
    features, spec, masks = record.features, record.spec, record.masks
    prefix = masks.num_prefix_tokens
    mergeable = masks.mergeable()
    if mergeable is None:
        mergeable = (torch.arange(features.shape[1], device=features.device) >= prefix).unsqueeze(0)
    importance = None if masks.attention is None else _blank(masks.attention.float(), ~mergeable)
    algorithm = ALGORITHMS[spec.algorithm]
    candidates = Candidates.read(features, spec, masks)
    if candidates is None or not algorithm.reads_energy:
        return None, importance, ~mergeable
    energy, _ = candidates.scores(spec)
    mergeable = mergeable.expand(len(features), -1)
    if candidates.mergeable is not None:  # without those of protected ids, too
        mergeable = torch.cat([mergeable[:, :prefix], candidates.mergeable], dim=1)
    takes_part = mergeable
    if algorithm.protects:
        ranked = rank_by_energy(energy, candidates.mergeable, 2 * candidates.num_pairs)
        among = candidates.steps(ranked.shape[1]) < 2 * candidates.pairs_of_sample()
        chosen = torch.zeros_like(mergeable).scatter(1, ranked + prefix, among.expand_as(ranked))
        takes_part = mergeable & chosen
    energy = torch.cat([energy.new_zeros(len(energy), prefix), energy], dim=1)
    return _blank(energy, ~mergeable), importance, ~takes_part


def _counted(record: LayerRecord) -> torch.Tensor | None:
    """The tokens that the layer did not drop, `(B, n)` bool; `None`: it drops none."""
    if record.spec.combine == "prune":
        kept = record.plan.kept
        return torch.zeros(record.features.shape[:2], dtype=torch.bool, device=kept.device).scatter(1, kept, True)
    return record.plan.counted if record.spec.combine == "prune_half" else None


def _blank(values: torch.Tensor | None, where: torch.Tensor) -> torch.Tensor | None:
    return None if values is None else values.masked_fill(where, torch.nan)
