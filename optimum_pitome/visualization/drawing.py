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

"""Panels of a picture: groups in their mean colours, and heat maps; and sheets of panels. numpy and PIL alone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .grids import PatchGrid
from .groups import LayerGroups


#: From low to high: dark blue, green, yellow, as bright as they are high, for eyes of every kind and for grey paper.
_HEAT = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float32) / 255
_PAPER, _INK, _GAP, _FONT = (255, 255, 255), (30, 30, 30), 8, 15


def colour_of(number: int) -> tuple[int, int, int]:
    """A colour for a group; the hues of neighbours are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85 - 0.25 * (number % 2), 1.0 - 0.2 * (number % 3))
    return round(red * 255), round(green * 255), round(blue * 255)


def heat_colours(values: np.ndarray) -> np.ndarray:
    """`(...)` from 0 to 1 to colours `(..., 3)`."""
    steps = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)


class Canvas:
    """A picture and its patches, enlarged or shrunk to about `side` pixels.

    Args:
        picture (`numpy.ndarray` of shape `(rows·height, columns·width, 3)`): from 0 to 1.
    """

    def __init__(self, picture: np.ndarray, grid: PatchGrid, side: int):
        self.grid = grid
        zoom = side / max(picture.shape[0], picture.shape[1] / grid.frames)
        self._cell = [max(3, round(length * zoom)) for length in grid.patch]
        height, width = grid.rows * self._cell[0], grid.columns * self._cell[1]
        self.photo = Image.fromarray((picture * 255).round().astype(np.uint8)).resize((width, height), Image.BICUBIC)
        self._pixels = np.asarray(self.photo, dtype=np.float32) / 255
        shape = (grid.rows, grid.detail, grid.patch[0] // grid.detail, grid.columns, grid.patch[1], 3)
        # (rows, columns, detail · 3)
        self._colours = picture.reshape(shape).mean(axis=(2, 4)).swapaxes(1, 2).reshape(grid.rows, grid.columns, -1)

    def _enlarge(self, values: np.ndarray) -> np.ndarray:
        return values.repeat(self._cell[0], axis=0).repeat(self._cell[1], axis=1)

    def groups(self, layer: LayerGroups) -> Image.Image:
        """Every group in its mean colour; groups of several patches with a border, each in a colour of its own. What
        was dropped is black, and what the encoder was not shown is white."""
        groups = self.grid.lay_out(layer.groups, -1)
        dropped = self.grid.lay_out(layer.dropped, False)
        flat = np.unique(groups, return_inverse=True)[1].reshape(-1)
        counts = np.bincount(flat)
        every = self._colours.reshape(groups.size, -1).T
        means = np.stack([np.bincount(flat, one) / counts for one in every], axis=-1)
        colours = means[flat].reshape(*groups.shape, -1)
        colours[groups < 0] = 1.0
        colours[dropped] = 0.0
        pixels = self._enlarge(colours)
        if self.grid.detail > 1:
            within = np.arange(len(pixels)) % self._cell[0] * self.grid.detail // self._cell[0]
            pixels = pixels.reshape(*pixels.shape[:2], self.grid.detail, 3)
            pixels = np.take_along_axis(pixels, within[:, None, None, None], axis=2)[:, :, 0]
        border = _borders(self._enlarge(groups), max(1, min(self._cell) // 8))
        several = (self.grid.lay_out(layer.members, 0) > 1) & ~dropped
        # The first token of a group names it: its number changes from layer to layer.
        first = np.full(len(layer.sizes), -1)
        real = np.flatnonzero(layer.groups >= 0)[::-1]
        first[layer.groups[real]] = real
        palette = np.array([colour_of(int(one)) for one in first], dtype=np.float32) / 255
        marked = border & self._enlarge(several)
        pixels[marked] = self._enlarge(palette[groups.clip(0)])[marked]
        return _image(pixels)

    def heat(self, values: np.ndarray, protected: np.ndarray | None = None) -> Image.Image:
        """`values` `(N,)` over the photo, from low (dark) to high (yellow); grey where there is none. A white dot
        marks what is `protected` `(N,)`. The lowest and the highest 2 % are not told apart: one alone would hide the
        rest.
        """
        laid = self.grid.lay_out(values, np.nan)
        known = np.isfinite(laid)
        low, high = np.percentile(laid[known], (2, 98)) if known.any() else (0.0, 1.0)
        scaled = ((np.where(known, laid, low) - low) / max(float(high - low), 1e-12)).clip(0, 1)
        grey = self._pixels.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
        pixels = np.where(
            self._enlarge(known)[..., None], 0.25 * grey + 0.75 * self._enlarge(heat_colours(scaled)), 0.5 * grey
        )
        if protected is not None:
            pixels[self._enlarge(self.grid.lay_out(protected, False)) & self._dots()] = 1.0
        return _image(pixels)

    def _dots(self) -> np.ndarray:
        """The middle of every patch."""
        inside = [np.abs(np.arange(side) - (side - 1) / 2) <= max(0.5, side / 10) for side in self._cell]
        return np.tile(np.outer(*inside), (self.grid.rows, self.grid.columns))


def _borders(labels: np.ndarray, width: int) -> np.ndarray:
    """The pixels within `width` of another label, or of the edge of the picture."""
    height, breadth = labels.shape
    padded = np.pad(labels, width, constant_values=-2)
    found = np.zeros(labels.shape, dtype=bool)
    for step in range(1, width + 1):
        for down, right in ((step, 0), (-step, 0), (0, step), (0, -step)):
            other = padded[width + down : width + down + height, width + right : width + right + breadth]
            found |= other != labels
    return found


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def legend(title: str, low: str, high: str, notes: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """A panel that says what a heat map shows."""
    panel = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(_FONT)
    draw.text((0, 0), title, _INK, font)
    bar = heat_colours(np.linspace(0, 1, max(2, size[0] - 2 * _GAP)))[None].repeat(12, axis=0)
    panel.paste(_image(bar), (0, 26))
    draw.text((0, 42), low, _INK, font)
    draw.text((size[0] - 2 * _GAP, 42), high, _INK, font, anchor="ra")
    for line, note in enumerate(notes):
        draw.text((0, 70 + 20 * line), note, _INK, font)
    return panel


def sheet(rows: Sequence[Sequence[tuple[str, Image.Image] | None]]) -> Image.Image:
    """Panels of one size with a title each, in rows and columns; `None` leaves a place empty."""
    width, height = next(panel for row in rows for panel in row if panel is not None)[1].size
    font = ImageFont.load_default(_FONT)
    title = _FONT + 6
    breadth = max(width, *(round(font.getlength(panel[0])) for row in rows for panel in row if panel is not None))
    columns = max(map(len, rows))
    whole = (_GAP + columns * (breadth + _GAP), _GAP + len(rows) * (title + height + _GAP))
    picture = Image.new("RGB", whole, _PAPER)
    draw = ImageDraw.Draw(picture)
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            if panel is not None:
                corner = (_GAP + x * (breadth + _GAP), _GAP + y * (title + height + _GAP))
                draw.text(corner, panel[0], _INK, font)
                picture.paste(panel[1], (corner[0], corner[1] + title))
    return picture
