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

"""What an encoder of sound was shown, as a spectrogram, and where its tokens lie in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from .grids import PatchGrid
from .watching import EncoderRun


#: Of waves: bands of a spectrogram, and decibels below the loudest that are told apart.
_BANDS, _DECIBELS = 64, 80.0


def read_sounds(run: EncoderRun, processor: Any = None) -> list[tuple[np.ndarray, PatchGrid]]:
    """What each sample of `run` sounds like: a spectrogram of shape `(height, width, 3)`, grey, float32 from 0 to 1,
    with low tones at the bottom, and its tokens. What is long and low goes on in the line below.

    Encoders of spectrograms are shown with the one that they were given. Encoders of waves hear samples: one column
    of their spectrogram is made of the samples that one token was made of.

    Args:
        processor (*optional*): Has a `sampling_rate`, of which the bands of a wave's spectrogram depend (16 kHz).

    Raises:
        ValueError: if the tokens are no parts of what the model was given.
    """
    rewrite = run.encoder.pitome
    config = rewrite.architecture.config_of(run.encoder)
    given = run.inputs.get("input_features", run.inputs.get("input_values"))
    if given is None:
        raise ValueError(
            f"{type(run.encoder).__name__} was given neither input_values nor input_features, so its tokens cannot "
            "be drawn. Pass the model that takes the sounds."
        )
    given = given.float().cpu()
    num_tokens = len(run.samples[0][0].groups)
    prefix, suffix = rewrite.num_prefix_tokens, rewrite.num_suffix_tokens
    number = num_tokens - prefix - suffix
    rows = 1
    if hasattr(config, "frequency_stride"):  # patches, which may overlap: each is drawn where its middle is
        strides = (config.frequency_stride, config.time_stride)
        shown = [_middles(one.T.numpy(), config.patch_size, strides) for one in given]
        patch = strides
        rows = shown[0].shape[0] // patch[0]
    elif hasattr(config, "conv_stride"):
        shown = [_spectrum_of_wave(one.numpy(), config, processor) for one in given]
        patch = (shown[0].shape[0], 1)
    elif given.dim() == 3:  # some columns to a token
        patch = (given.shape[1], -(-given.shape[2] // number))
        missing = number * patch[1] - given.shape[2]
        shown = [np.pad(one.numpy(), ((0, 0), (0, max(0, missing))), mode="edge") for one in given]
    else:
        raise ValueError(f"{type(config).__name__} does not say where the tokens of its encoder lie in a sound.")
    columns = shown[0].shape[1] // patch[1]
    if rows * columns != number:
        raise ValueError(
            f"{type(run.encoder).__name__} made {num_tokens} tokens, {prefix + suffix} of them special, of a sound "
            f"of {rows}×{columns} patches. visualize draws encoders with one token per patch."
        )
    lines = max(1, round(math.sqrt(columns * patch[1] / (rows * patch[0]))))
    per_line = -(-columns // lines)
    row, column = np.divmod(np.arange(number), columns)
    line, place = np.divmod(column, per_line)
    cells = np.full(num_tokens, -1)
    cells[prefix : prefix + number] = (line * rows + rows - 1 - row) * per_line + place
    detail = 1 if rows > 1 else patch[0]
    grid = PatchGrid(lines * rows, per_line, patch, cells, title="spectrogram", detail=detail)
    return [(_in_lines(one, lines, per_line * patch[1]), grid) for one in shown]


def _middles(shown: np.ndarray, side: int, strides: tuple[int, int]) -> np.ndarray:
    """`(bands, frames)` without what lies around the middles of patches of `side`, each `strides` large."""
    for axis, stride in enumerate(strides):
        number = (shown.shape[axis] - side) // stride + 1
        start = max(0, (side - stride) // 2)
        places = np.arange(start, start + number * stride).clip(max=shown.shape[axis] - 1)
        shown = shown.take(places, axis=axis)
    return shown


def _spectrum_of_wave(wave: np.ndarray, config: Any, processor: Any) -> np.ndarray:
    """The `(bands, tokens)` in decibels of a wave `(samples,)`: every column of those samples that the convolutions
    make one token of."""
    field, step = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride):
        field, step = field + (kernel - 1) * step, step * stride
    processor = getattr(processor, "feature_extractor", processor)
    rate = getattr(processor, "sampling_rate", 16000)
    length = max(1024, 1 << (field - 1).bit_length())
    bands = mel_filter_bank(length // 2 + 1, _BANDS, 0.0, rate / 2, rate)
    window = window_function(field, "hann")
    settings = {"fft_length": length, "power": 2.0, "center": False, "mel_filters": bands}
    return spectrogram(wave, window, field, step, **settings, log_mel="dB", db_range=_DECIBELS)


def _in_lines(shown: np.ndarray, lines: int, width: int) -> np.ndarray:
    """`(bands, frames)` from low tones to high ones, to a grey picture of `lines` one below another. What is left of
    the last line is white."""
    bands, frames = shown.shape
    low, high = float(shown.min()), float(shown.max())
    picture = np.ones((bands, lines * width), dtype=np.float32)
    picture[:, :frames] = (shown[::-1] - low) / max(high - low, 1e-6)
    picture = picture.reshape(bands, lines, width).transpose(1, 0, 2).reshape(lines * bands, width)
    return picture[..., None].repeat(3, axis=-1)
