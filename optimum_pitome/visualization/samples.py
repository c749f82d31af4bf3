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

"""[`PictureGroups`]: one picture, clip or sound, and what merged of it, as arrays and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .drawing import Canvas, legend, sheet
from .grids import PatchGrid
from .groups import LayerGroups


#: Layers in a picture, where nobody says which.
_DRAWN = 4


@dataclass(frozen=True)
class SampleGroups:
    """One sample, and what merged of it.

    Attributes:
        layers (`tuple[LayerGroups, ...]`): all layers of the encoder, as arrays.
    """

    layers: tuple[LayerGroups, ...]

    def chosen(self, layers: Sequence[int] | None = None) -> list[LayerGroups]:
        """The layers at these indices, of which negative ones count from the end. `None`: up to four of those that
        changed something, the last among them.

        Raises:
            ValueError: for an index that there is not.
        """
        count = len(self.layers)
        if layers is None:
            before = [int((self.layers[0].groups >= 0).sum()), *(layer.num_tokens for layer in self.layers)]
            changed = [layer for layer, tokens in zip(self.layers, before) if layer.num_tokens != tokens]
            changed = changed or [self.layers[-1]]
            steps = np.linspace(0, len(changed) - 1, min(_DRAWN, len(changed))).round().astype(int)
            return [changed[step] for step in dict.fromkeys(steps.tolist())]
        wrong = [layer for layer in layers if not -count <= layer < count]
        if wrong or not layers:
            raise ValueError(f"layers={list(layers)}: expected some of the layers 0 to {count - 1}.")
        return [self.layers[layer] for layer in layers]

    def summary(self) -> dict[str, Any]:
        """Numbers that JSON can hold: of every layer the tokens that leave it, and the groups."""
        layers = [
            {
                "layer": layer.index,
                "tokens": layer.num_tokens,
                "largest_group": int(layer.members.max()),
                "protected": int(layer.protected.sum()),
                "dropped": int(layer.dropped.sum()),
                "groups": layer.groups.tolist(),
            }
            for layer in self.layers
        ]
        return {"tokens": int((self.layers[0].groups >= 0).sum()), "layers": layers}


@dataclass(frozen=True)
class PictureGroups(SampleGroups):
    """One picture, clip or sound as the model got it, and what merged of it.

    Attributes:
        layers (`tuple[LayerGroups, ...]`): all layers of the encoder, as arrays.
        pixels (`numpy.ndarray` of shape `(height, width, 3)`, float32):
            From 0 to 1, without what is left over beside whole patches. The frames of a clip stand side by side, the
            first of each tubelet. A sound is a spectrogram, which goes on in the line below where it is long.
        grid ([`PatchGrid`]): where the tokens lie in it.
    """

    pixels: np.ndarray
    grid: PatchGrid

    def picture(self, layers: Sequence[int] | None = None, side: int = 336) -> Image.Image:
        """The photo, or what stands for it, beside its groups after some layers; below them what the layers went
        by, where they read it: the energy, with a white dot on what is protected, and the class token's attention.

        Args:
            layers (`Sequence[int]`, *optional*): see [`~SampleGroups.chosen`].
            side (`int`, *optional*, defaults to 336): the longer side of one panel in pixels.

        Returns:
            `PIL.Image.Image`, RGB.
        """
        canvas, drawn = Canvas(self.pixels, self.grid, side), self.chosen(layers)
        size = canvas.photo.size
        rows = [[(self.grid.title, canvas.photo)]]
        rows[0] += [(self._title(layer), canvas.groups(layer)) for layer in drawn]
        if any(layer.energy is not None for layer in drawn):
            notes = ["white dot:", "protected, does not", "merge in this layer"]
            said = legend("energy", "differs", "redundant", notes, size)
            maps = [layer.energy is not None and canvas.heat(layer.energy, layer.protected) for layer in drawn]
            rows.append([("", said), *[("", one) if one else None for one in maps]])
        if any(layer.importance is not None for layer in drawn):
            said = legend("class token's attention", "low", "high", (), size)
            maps = [layer.importance is not None and canvas.heat(layer.importance) for layer in drawn]
            rows.append([("", said), *[("", one) if one else None for one in maps]])
        # Strips of frames stand below one another.
        return sheet(rows if size[0] < 2 * size[1] else [list(column) for column in zip(*rows)])

    def animation(self, side: int = 336) -> list[Image.Image]:
        """The photo beside its groups, one frame before the first layer and one after each: all of one size."""
        canvas = Canvas(self.pixels, self.grid, side)
        titles = [f"layer {len(self.layers) - 1}: {len(self.layers[0].groups)} tokens"]  # as wide as any
        start = (self.grid.title, canvas.photo)
        blank = ("before the first layer".ljust(len(titles[0])), canvas.photo)
        frames = [[start, blank]] + [[start, (self._title(layer), canvas.groups(layer))] for layer in self.layers]
        wide = canvas.photo.size[0] >= 2 * canvas.photo.size[1]
        pictures = [sheet([[one] for one in frame] if wide else [frame]) for frame in frames]
        size = (max(one.width for one in pictures), max(one.height for one in pictures))
        return [_padded(one, size) for one in pictures]

    def summary(self) -> dict[str, Any]:
        return {"rows": self.grid.rows, "columns": self.grid.columns, **super().summary()}

    @staticmethod
    def _title(layer: LayerGroups) -> str:
        return f"layer {layer.index}: {layer.num_tokens} tokens"


def _padded(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    padded = Image.new("RGB", size, (255, 255, 255))
    padded.paste(picture)
    return padded
