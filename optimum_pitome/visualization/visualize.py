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

"""[`visualize`]: what a rewritten model merges of some inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..configuration.checks import show
from ..modeling.rewrite import check_model, rewritten_encoders
from .grids import read_pictures
from .samples import PictureGroups
from .sounds import read_sounds
from .texts import TextGroups, read_tokens
from .watching import EncoderRun, watch_forward
from .windows import join_windows


def visualize(
    model: nn.Module, inputs: Mapping[str, Any], processor: Any = None, *, part: str | None = None
) -> list[PictureGroups] | list[TextGroups]:
    """Runs a rewritten model once, and shows what it merged: the groups after every layer, what they were chosen by,
    and pictures of both. The model is left as it was.

    ```python
    sample = visualize(model, processor(photo, return_tensors="pt"), processor)[0]
    sample.picture().save("groups.png")
    sample.layers[-1].groups  # for every original token the token that it is part of after the last layer
    ```

    Args:
        model (`torch.nn.Module`): a model that [`apply_pitome`] rewrote, with settings that merge.
        inputs (`Mapping`): what the model is called with, as a batch. Tensors move to the model's device.
        processor (*optional*):
            That of the model: its `image_mean` and `image_std` give pictures their colours back, its tokenizer gives
            tokens their texts.
        part (`str`, *optional*):
            `"vision"`, `"text"` or `"audio"`, for a model in which encoders of several merge. `None`: the first of
            these that does.

    Returns:
        `list[PictureGroups]` or `list[TextGroups]`, one for each sample that an encoder of the model was given. A
        model that cuts a picture into tiles gives one for each tile; a clip is one strip of frames; a sound is a
        spectrogram.

    Raises:
        TypeError: if `model` is not a module, or `inputs` is no mapping.
        ValueError: if nothing merges, or its tokens are no parts of the inputs.
    """
    check_model("visualize", model)
    if not isinstance(inputs, Mapping):
        raise TypeError(
            "visualize takes the model's inputs as a mapping, as a processor or a tokenizer returns it, not "
            f"{show(inputs)}."
        )
    if not rewritten_encoders(model):
        raise ValueError(
            f"{type(model).__name__} merges nothing: load it with pitome=0.9, or call apply_pitome(model, 0.9) first."
        )
    device = next(model.parameters()).device
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    runs = _chosen(model, watch_forward(model, inputs), part)
    return [sample for run in runs for sample in _drawn(run, processor)]


def _chosen(model: nn.Module, runs: list[EncoderRun], part: str | None) -> list[EncoderRun]:
    """The forwards of the encoders that are to be drawn."""
    if not runs:
        raise ValueError(
            f"{type(model).__name__} merged nothing of these inputs: they have too few tokens for its settings. Take "
            "longer inputs, a lower ratio, or a lower min_tokens if one is set."
        )
    found = {run.part for run in runs}
    if part is None:
        part = next(one for one in ("vision", "text", "audio") if one in found)
    if part not in found:
        raise ValueError(f"part={part!r}: expected one of {', '.join(map(repr, sorted(found)))}, which merge here.")
    return [run for run in runs if run.part == part]


def _drawn(run: EncoderRun, processor: Any) -> list[PictureGroups] | list[TextGroups]:
    if run.part == "text":
        return [TextGroups(*found) for found in zip(run.samples, read_tokens(run, processor))]
    run, read = join_windows(run), read_sounds if run.part == "audio" else read_pictures
    return [PictureGroups(layers, *found) for layers, found in zip(run.samples, read(run, processor))]
