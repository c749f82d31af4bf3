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

"""Spectral distances and losses of merges in single layers: a table, JSON, a plot, and how the two go together."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from .intervals import half_width
from .pictures import plotted
from .plain import Plain
from .report import whole_table, wrapped
from .spectrum import GRAPHS


_NUM_RESAMPLES = 1000

#: What is held fixed while two settings, layers or samples are compared → dimensions of `(settings, layers, samples)`
#: that one correlation runs over. The result is the mean of these correlations.
CORRELATIONS = {
    "all": (0, 1, 2),
    "within a layer": (0, 2),
    "within a setting": (1, 2),
    "within a layer and a setting": (2,),
    "within a layer and a sample": (0,),
}


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of spectral distance and loss.

    Attributes:
        name (`str`): of `CORRELATIONS`.
        value (`float`): the mean over what is held fixed. Not a number where nothing varies.
        low, high (`float`): 95 % interval, from drawing the samples again with replacement.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerSpectra(Plain):
    """What [`measure_spectra`] found. `A` settings, `L` layers, `S` samples.

    Attributes:
        settings (`tuple[str, ...]`): names of the settings.
        layers (`tuple[int, ...]`): indices of the layers.
        graph (`str`): which weights join two tokens, a key of `GRAPHS`.
        metric (`str`): what was compared, for the head of a table.
        distances (`torch.DoubleTensor` of shape `(A, L, S)`): spectral distances where only that layer merges.
        losses (`torch.DoubleTensor` of shape `(A, L, S)`): of the outputs then, see [`~analysis.loss.Samples`].
    """

    settings: tuple[str, ...]
    layers: tuple[int, ...]
    graph: str
    metric: str
    distances: torch.Tensor
    losses: torch.Tensor

    @functools.cached_property
    def correlations(self) -> tuple[Correlation, ...]:
        """How well the spectral distance ranks the losses: over everything, and with something held fixed."""
        generator, count = torch.Generator().manual_seed(0), self.losses.shape[2]
        draws = [torch.randint(count, (count,), generator=generator) for _ in range(_NUM_RESAMPLES)]
        return tuple(self._correlation(name, dims, draws) for name, dims in CORRELATIONS.items())

    def _correlation(self, name: str, dims: tuple[int, ...], draws: list[torch.Tensor]) -> Correlation:
        value = _mean_spearman(self.distances, self.losses, dims)
        drawn = [_mean_spearman(self.distances[..., draw], self.losses[..., draw], dims) for draw in draws]
        found = sorted(one for one in drawn if one == one)
        tail = round(0.025 * (len(found) - 1)) if found else 0
        low, high = (found[tail], found[-1 - tail]) if found else (float("nan"),) * 2
        return Correlation(name, value, low, high)

    def __str__(self) -> str:
        title = f"{GRAPHS[self.graph]} of the {self.metric}; {self.losses.shape[2]} samples"
        lines = _table(
            f"spectral distance, {title}; only that layer merges", self.settings, self.layers, self.distances
        )
        lines += _table("loss of the outputs against dense", self.settings, self.layers, self.losses)
        lines.append("rank correlation of spectral distance and loss (95 % interval over samples)")
        for one in self.correlations:
            lines.append(f"{one.name:<30}{one.value:6.3f}  ({one.low:.3f} to {one.high:.3f})")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain numbers: one per setting, layer and sample, and the correlations."""
        return {
            "settings": list(self.settings),
            "layers": list(self.layers),
            "graph": GRAPHS[self.graph],
            "metric": self.metric,
            "spectral_distance": self.distances.tolist(),
            "loss": self.losses.tolist(),
            "correlations": {
                one.name: {"value": one.value, "low": one.low, "high": one.high} for one in self.correlations
            },
        }

    def plot(self, path: str | os.PathLike, title: str | None = None) -> None:
        """Draws the spectral distance over the layers, one line for each of the settings, into a picture file.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if the file's name ends in no format of pictures.
        """
        with plotted(path, dpi=110) as axes:
            for name, values in zip(self.settings, self.distances):
                mean, half = _interval(values)
                axes.errorbar(self.layers, mean, half, marker="o", markersize=3, capsize=2, label=name)
            label = f"spectral distance, {GRAPHS[self.graph]} (bars: 95 % interval)"
            axes.set(xlabel="layer that merges", ylabel=label, title=title or "", ylim=(0, None))
            axes.legend(fontsize=8)


def spearman(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation along the last dimension; ties share their mean rank.

    Args:
        first, second (`torch.DoubleTensor` of shape `(rows, n)`).

    Returns:
        `torch.DoubleTensor` of shape `(rows,)`: not a number where all entries of a row are equal.
    """
    first, second = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (_ranks(first), _ranks(second)))
    norms = (first.square().sum(dim=1) * second.square().sum(dim=1)).sqrt()
    return (first * second).sum(dim=1) / norms


def _ranks(values: torch.Tensor) -> torch.Tensor:
    values = values.contiguous()
    ordered = values.sort(dim=1).values
    below, not_above = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + not_above).double()


def _mean_spearman(distances: torch.Tensor, losses: torch.Tensor, dims: tuple[int, ...]) -> float:
    fixed = [dim for dim in range(3) if dim not in dims]
    rows = math.prod(distances.shape[dim] for dim in fixed)
    return float(spearman(*(one.permute(*fixed, *dims).reshape(rows, -1) for one in (distances, losses))).nanmean())


def _interval(values: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean over the samples of `(L, S)`, and half of its 95 % interval."""
    return values.mean(dim=1).tolist(), half_width(values).tolist()


def _table(title: str, names: tuple[str, ...], layers: tuple[int, ...], values: torch.Tensor) -> list[str]:
    import pandas

    cells = {
        name: [f"{mean:.3g} ± {half:.2g}" for mean, half in zip(*_interval(one))] for name, one in zip(names, values)
    }
    return [wrapped([title]), whole_table(pandas.DataFrame(cells, layers).rename_axis("layer", axis="columns"))]
