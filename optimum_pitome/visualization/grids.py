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

"""Where the tokens of an encoder lie in what it was shown: pictures, and clips as strips of frames. Sounds have a
module of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .watching import EncoderRun


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one picture.

    Attributes:
        rows, columns (`int`): patches.
        patch (`tuple[int, int]`): height and width of one in pixels.
        cells (`numpy.ndarray` of shape `(N,)`, int64):
            The patch, counted row by row, that each token was made of; -1 for special tokens and padding.
        frames (`int`): 1, or of a clip how many stand side by side.
        title (`str`): what is drawn: `"photo"`, `"frames"` or `"spectrogram"`.
        detail (`int`): mean colours of a group, one below another: of a column of sound one for each band.
    """

    rows: int
    columns: int
    patch: tuple[int, int]
    cells: np.ndarray
    frames: int = 1
    title: str = "photo"
    detail: int = 1

    def lay_out(self, values: np.ndarray, empty: Any) -> np.ndarray:
        """`(N, ...)`, one entry for each token, to `(rows, columns, ...)`; `empty` where no token is."""
        found = np.full((self.rows * self.columns, *values.shape[1:]), empty, dtype=values.dtype)
        placed = self.cells >= 0
        found[self.cells[placed]] = values[placed]
        return found.reshape(self.rows, self.columns, *values.shape[1:])


def read_pictures(run: EncoderRun, processor: Any = None) -> list[tuple[np.ndarray, PatchGrid]]:
    """What each sample of `run` shows: a picture of shape `(rows·height, columns·width, 3)`, float32 from 0 to 1, and
    its patches.

    Args:
        processor (*optional*):
            Has `image_mean` and `image_std`, by which the picture gets its own colours. `None`: the values are spread
            from 0 to 1.

    Raises:
        ValueError: if the tokens are no patches of the pixels that the model was given.
    """
    rewrite = run.encoder.pitome
    config = rewrite.architecture.config_of(run.encoder)
    if "grid_thw" in run.inputs:
        return _read_packed(run, config, processor)
    # Around the tower of a LLaVA both names stand for what the whole model was given.
    clips = run.inputs.get("pixel_values_videos") if hasattr(config, "tubelet_size") else None
    pixels = run.inputs.get("pixel_values") if clips is None else clips
    if pixels is None:
        raise ValueError(
            f"{type(run.encoder).__name__} was given no pixel_values, so its tokens cannot be drawn. Pass the model "
            "that takes the pictures."
        )
    num_tokens = len(run.samples[0][0].groups)
    prefix, suffix = rewrite.num_prefix_tokens, rewrite.num_suffix_tokens
    patch, depth = _patch_size(config)
    if pixels.dim() == 3:
        shapes = run.inputs["spatial_shapes"].tolist()
        found = [_from_patches(one, shape, patch) for one, shape in zip(pixels, shapes)]
        grids = [(*shape, 1) for shape in shapes]
    else:
        frames = pixels.unsqueeze(1) if pixels.dim() == 4 else pixels[:, ::depth]
        found = [_strip(one, patch) for one in frames]
        grids = [(frames.shape[3] // patch[0], frames.shape[4] // patch[1], frames.shape[1])] * len(found)
    pictures = []
    for sample, (picture, (rows, columns, number)) in enumerate(zip(found, grids)):
        order = np.arange(rows * columns * number).reshape(number, rows, columns)
        place = np.empty_like(order).reshape(-1)
        # Tokens come frame by frame; in the strip, a row of patches runs through all frames.
        place[order.transpose(1, 0, 2).reshape(-1)] = np.arange(order.size)
        if run.ids_restore is not None:
            place = place[torch.argsort(run.ids_restore[sample]).cpu().numpy()][: num_tokens - prefix - suffix]
        free = num_tokens - prefix - suffix - len(place)
        if free < 0 or (free > 0 and pixels.dim() != 3):
            raise ValueError(
                f"{type(run.encoder).__name__} made {num_tokens} tokens, {prefix + suffix} of them special, of a "
                f"picture of {rows}×{columns * number} patches. visualize draws encoders with one token per patch."
            )
        cells = np.full(num_tokens, -1)
        cells[prefix : prefix + len(place)] = place
        title = "photo" if number == 1 else "frames"
        grid = PatchGrid(rows, columns * number, patch, cells, number, title)
        pictures.append((_coloured(picture, processor), grid))
    return pictures


def _read_packed(run: EncoderRun, config: Any, processor: Any) -> list[tuple[np.ndarray, PatchGrid]]:
    """[`read_pictures`] of a tower that gets the patches of all images in one sequence, of every frame one. Patches
    that are merged into one after the tower stand together: squares of `side` by `side`, row by row."""
    side, patch = config.spatial_merge_size, config.patch_size
    frames = [(rows, columns) for number, rows, columns in run.inputs["grid_thw"].tolist() for _ in range(number)]
    patches = run.inputs["hidden_states"].float().cpu().split([rows * columns for rows, columns in frames])
    pictures = []
    for of_frame, (rows, columns), layers in zip(patches, frames, run.samples):
        squares = np.arange(rows * columns).reshape(rows // side, side, columns // side, side)
        place = squares.transpose(0, 2, 1, 3).reshape(-1)
        cells = np.full(len(layers[0].groups), -1)
        cells[: len(place)] = place
        pixels = torch.empty(rows * columns, patch, patch, 3)
        # Channels, frames that a patch goes through (the first is drawn), rows and columns.
        pixels[torch.from_numpy(place)] = of_frame.reshape(len(place), 3, -1, patch, patch)[:, :, 0].permute(
            0, 2, 3, 1
        )
        picture = _from_patches(pixels.flatten(1), [rows, columns], (patch, patch))
        pictures.append((_coloured(picture, processor), PatchGrid(rows, columns, (patch, patch), cells)))
    return pictures


def _patch_size(config: Any) -> tuple[tuple[int, int], int]:
    """Height and width of a patch, and how many frames it goes through."""
    tubelet, patch = getattr(config, "tubelet_size", None), getattr(config, "patch_size", None)
    if isinstance(tubelet, (list, tuple)):
        return tuple(tubelet[1:]), tubelet[0]
    if patch is None:
        raise ValueError(f"{type(config).__name__} has no patch_size, so it is not known where its tokens lie.")
    return tuple(patch) if isinstance(patch, (list, tuple)) else (patch, patch), tubelet or 1


def _strip(frames: torch.Tensor, patch: tuple[int, int]) -> np.ndarray:
    """Frames `(T, C, H, W)` side by side, without what is left over beside whole patches."""
    height, width = (size - size % side for size, side in zip(frames.shape[2:], patch))
    frames = frames[:, :, :height, :width].float().cpu()
    return frames.permute(2, 0, 3, 1).reshape(height, -1, frames.shape[1]).numpy()


def _from_patches(patches: torch.Tensor, shape: list[int], patch: tuple[int, int]) -> np.ndarray:
    """`(N, height·width·C)`, padded, to the picture of `shape` patches."""
    rows, columns = shape
    kept = patches[: rows * columns].float().cpu().reshape(rows, columns, *patch, -1)
    return kept.permute(0, 2, 1, 3, 4).reshape(rows * patch[0], columns * patch[1], -1).numpy()


def _coloured(picture: np.ndarray, processor: Any) -> np.ndarray:
    processor = getattr(processor, "image_processor", processor)
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is not None and std is not None and getattr(processor, "do_normalize", True):
        picture = picture * np.asarray(std, dtype=np.float32) + np.asarray(mean, dtype=np.float32)
    elif processor is None or getattr(processor, "do_normalize", False):
        picture = (picture - picture.min()) / max(float(np.ptp(picture)), 1e-6)
    picture = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, axis=-1)
    return picture.clip(0, 1).astype(np.float32)
