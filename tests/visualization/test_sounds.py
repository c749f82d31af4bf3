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

"""Spectrograms of every encoder of sound in the zoo, and where its tokens lie in them."""

import numpy as np
import pytest
import torch
from group_checks import check_groups
from PIL import Image
from transformers import Wav2Vec2Model, WhisperModel
from transformers.audio_utils import mel_filter_bank
from zoo import one_per_encoder
from zoo.audio import CASES as SOUNDS
from zoo.audio import wav2vec2_config, whisper_config

from optimum_pitome import apply_pitome, visualize
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.visualization.drawing import Canvas
from optimum_pitome.visualization.grids import PatchGrid
from optimum_pitome.visualization.groups import LayerGroups
from optimum_pitome.visualization.samples import PictureGroups


SETTINGS = {"ratio": 0.8, "min_tokens": 1}
CASES = [pytest.param(case, id=case.id) for case in one_per_encoder() if case in SOUNDS]


@pytest.mark.parametrize("case", CASES)
def test_every_encoder(case):
    model = apply_pitome(case.build(), SETTINGS)
    samples = visualize(model, case.inputs(2))
    assert len(samples) == 2 and all(isinstance(sample, PictureGroups) for sample in samples)
    rewrite = rewritten_encoders(model)[0].pitome
    for sample in samples:
        check_groups(sample)
        grid = sample.grid
        assert sample.pixels.shape == (grid.rows * grid.patch[0], grid.columns * grid.patch[1], 3)
        assert grid.title == "spectrogram" and sample.pixels.min() == 0 and sample.pixels.max() == 1
        placed = grid.cells[grid.cells >= 0]
        assert len(np.unique(placed)) == len(placed) == len(grid.cells) - rewrite.num_prefix_tokens
        assert placed.max() < grid.rows * grid.columns
        picture = sample.picture(side=64)
        assert isinstance(picture, Image.Image) and len(picture.getcolors(10**6)) > 50
        frames = sample.animation(side=64)
        assert len(frames) == len(sample.layers) + 1 and frames[1].tobytes() != frames[0].tobytes()


@pytest.mark.parametrize("case", CASES)
def test_tokens_lie_where_they_are_heard(case):
    """A change of what one token is made of changes the spectrogram where that token is drawn, and most there."""
    model = apply_pitome(case.build(), SETTINGS)
    encoder = rewritten_encoders(model)[0]
    config, prefix, seen = encoder.config, encoder.pitome.num_prefix_tokens, []
    layer = encoder.pitome.architecture.find_layers(encoder)[0]
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((*args, *kwargs.values())[0]), with_kwargs=True
    )
    inputs = {name: value for name, value in case.inputs(2).items() if name != "attention_mask"}
    name = "input_features" if "input_features" in inputs else "input_values"
    before = visualize(model, inputs)[0]
    grid = before.grid
    for place in range(len(grid.cells) - prefix)[3:-3:4]:
        changed = inputs[name].clone()
        if hasattr(config, "frequency_stride"):
            row, column = divmod(place, (changed.shape[1] - config.patch_size) // config.time_stride + 1)
            low, time = row * config.frequency_stride, column * config.time_stride
            changed[0, time : time + config.patch_size, low : low + config.patch_size] *= -1
        elif name == "input_features":
            changed[0, :, 2 * place] *= -1
        else:  # of the 13 samples from 8 · place on those that no other token is made of
            changed[0, 8 * place + 5 : 8 * place + 8] = torch.randn(3)
        after = visualize(model, {**inputs, name: changed})[0]
        moved = (seen[0] - seen.pop())[0].norm(dim=-1)
        assert int(moved.argmax()) == place + prefix
        # A new loudest or softest place would shift all greys: the cell that changes most counts.
        cells = np.abs(before.pixels - after.pixels)[..., 0]
        cells = cells.reshape(grid.rows, grid.patch[0], grid.columns, grid.patch[1]).mean(axis=(1, 3))
        assert int(cells.argmax()) == grid.cells[place + prefix]


@pytest.mark.slow  # the floor refuses Wav2Vec2
def test_a_tone_of_a_wave_by_hand():
    """A tone of 1 kHz at 16 kHz lies in the band around it, counted from below, in every column."""
    layers = {"conv_dim": (16, 16), "conv_kernel": (40, 10), "conv_stride": (32, 10)}  # 328 samples, every 320
    config = wav2vec2_config()
    config.update(layers)
    torch.manual_seed(0)
    model = apply_pitome(Wav2Vec2Model(config), SETTINGS)
    wave = torch.sin(2 * torch.pi * 1000 * torch.arange(6400) / 16000).unsqueeze(0)
    sample = visualize(model, {"input_values": wave})[0]
    bands = mel_filter_bank(513, 64, 0.0, 8000.0, 16000)
    assert (63 - sample.pixels[..., 0].argmax(axis=0) == bands[64].argmax()).all()  # bin 64 of 513: 1 kHz


def test_columns_of_a_group_show_its_mean_spectrum():
    """Four moments of two bands by hand, of which the first two are one group."""
    bands = np.array([[0.0, 1.0, 0.2, 0.6], [1.0, 0.5, 0.4, 0.8]], dtype=np.float32)
    grid = PatchGrid(1, 4, (2, 1), np.arange(4), title="spectrogram", detail=2)
    nothing = np.zeros(4, dtype=bool)
    sizes = np.array([2, 1, 1], dtype=np.float32)
    layer = LayerGroups(0, np.array([0, 0, 1, 2]), sizes, None, None, nothing, nothing)
    drawn = np.asarray(Canvas(bands[..., None].repeat(3, axis=-1), grid, 32).groups(layer))
    assert drawn.shape == (16, 32, 3)  # 16 × 8 pixels for each moment
    for column, (high, low) in {4: (128, 191), 12: (128, 191), 20: (51, 102), 28: (153, 204)}.items():
        assert np.array_equal(drawn[4, column], [high] * 3) and np.array_equal(drawn[11, column], [low] * 3)


def test_long_sounds_go_on_in_the_line_below():
    torch.manual_seed(0)
    model = apply_pitome(WhisperModel(whisper_config()).encoder.eval(), {"ratio": 0.5, "min_tokens": 1})
    halves = torch.zeros(1, 8, 60)
    halves[:, :4, :30] = halves[:, 4:, 30:] = 1.0  # low tones, then high ones
    sample = visualize(model, {"input_features": halves})[0]
    grid = sample.grid
    assert (grid.rows, grid.columns, grid.patch, grid.detail) == (3, 10, (8, 2), 8)
    assert grid.cells.tolist() == list(range(30))
    first, last = sample.pixels[:8, :, 0], sample.pixels[16:, :, 0]
    assert (first[:4] == 0).all() and (first[4:] == 1).all()  # the low tones, at the bottom
    assert (last[:4] == 1).all() and (last[4:] == 0).all()


@pytest.mark.slow  # the floor refuses Wav2Vec2
def test_what_cannot_be_drawn():
    case = next(case for case in SOUNDS if case.id == "Wav2Vec2Model")
    encoder = apply_pitome(case.build(), SETTINGS).encoder
    with pytest.raises(ValueError, match="given neither input_values nor input_features"):
        visualize(encoder, {"hidden_states": torch.randn(1, 30, 32)})
