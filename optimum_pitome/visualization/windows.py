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

"""Towers that merge inside the windows of a picture: what each window has merged, as groups of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .groups import LayerGroups
from .watching import EncoderRun


def join_windows(run: EncoderRun) -> EncoderRun:
    """`run` with one sample for each frame, its patches in the order in which the tower was given them. Where no layer
    merges inside windows, `run` itself."""
    config = run.encoder.pitome.architecture.config_of(run.encoder)
    if "grid_thw" not in run.inputs or getattr(config, "window_size", None) is None:
        return run
    from transformers.vision_utils import get_vision_window_index  # early releases 5 have no such towers

    grid, side = run.inputs["grid_thw"].cpu(), config.spatial_merge_size
    index, begins = get_vision_window_index(grid, side, config.window_size, config.patch_size)
    # Squares of patches move as one: the place of each patch, in the order of the windows.
    places = (index.numpy()[:, None] * side**2 + np.arange(side**2)).reshape(-1)
    lengths, windows, samples, start = np.diff(begins.numpy()), iter(run.samples), [], 0
    lengths = iter(lengths.tolist())
    for number, rows, columns in grid.tolist():
        for _ in range(number):
            found, size = [], rows * columns
            while sum(length for _, length in found) < size:
                found.append((next(windows), next(lengths)))
            order = places[start : start + size] - start
            samples.append(tuple(_joined(layers, order) for layers in _by_layer(found)))
            start += size
    return replace(run, samples=samples)


def _by_layer(found: Sequence[tuple[tuple[LayerGroups, ...], int]]) -> list[list[tuple[LayerGroups, int]]]:
    """From windows, each with all layers and its number of patches, to layers, each with all windows."""
    return [[(layers[index], length) for layers, length in found] for index in range(len(found[0][0]))]


def _joined(windows: Sequence[tuple[LayerGroups, int]], order: np.ndarray) -> LayerGroups:
    """One layer of the windows of a frame; `order` says where the patches of one after the other lie in the frame."""
    back = np.argsort(order)
    begins = np.cumsum([0, *(len(layer.sizes) for layer, _ in windows)])

    def together(name: str) -> np.ndarray | None:
        values = [(getattr(layer, name), length) for layer, length in windows]
        if any(value is None for value, _ in values):
            return None
        return np.concatenate([value[:length] for value, length in values])[back]

    groups = np.concatenate([layer.groups[:length] + begin for (layer, length), begin in zip(windows, begins)])[back]
    others = {name: together(name) for name in ("energy", "importance", "protected", "dropped")}
    return LayerGroups(windows[0][0].index, groups, np.concatenate([layer.sizes for layer, _ in windows]), **others)
