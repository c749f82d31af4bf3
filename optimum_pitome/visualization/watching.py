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

"""What every rewritten encoder of a model was given, and what its layers merged, in one forward of the model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..apply import layers_watched
from ..modeling.eval_mode import eval_mode
from ..modeling.rewrite import rewritten_encoders
from ..modeling.signatures import names
from .groups import LayerGroups, RunTrace


#: Arguments that say what the tokens are, or where they lie.
_INPUTS = ("pixel_values", "pixel_values_videos", "spatial_shapes", "input_ids", "input_values", "input_features")
#: Of towers that get the patches of all images in one sequence: these, and how many frames, rows and columns each has.
_PACKED = ("hidden_states", "grid_thw")


@dataclass(frozen=True)
class EncoderRun:
    """One forward of one encoder.

    Attributes:
        encoder (`nn.Module`): the rewritten encoder.
        samples (`list[tuple[LayerGroups, ...]]`): of every sample all layers.
        inputs (`dict[str, torch.Tensor]`): what the model closest around the encoder was given, as `_INPUTS` names it.
        ids_restore (`torch.LongTensor`, *optional*): of masked autoencoders, which patches the encoder saw.
    """

    encoder: nn.Module
    samples: list[tuple[LayerGroups, ...]]
    inputs: dict[str, torch.Tensor]
    ids_restore: torch.Tensor | None

    @property
    def part(self) -> str:
        """`"vision"`, `"text"` or `"audio"`."""
        return self.encoder.pitome.architecture.part


def watch_forward(model: nn.Module, inputs: Mapping[str, Any]) -> list[EncoderRun]:
    """Runs `model` on `inputs` once, without gradients and in `eval()` mode; both are as before afterwards.

    Pictures are read where a model around an encoder receives them, since models cut them into tiles, or take the
    frames of a clip for pictures, on the way there.
    """
    runs: list[EncoderRun] = []
    given: dict[str, torch.Tensor] = {}
    with eval_mode(model), contextlib.ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            if isinstance(module, PreTrainedModel) or module is model:
                known = names(type(module).forward)
                if any(name in known for name in (*_INPUTS, "grid_thw")):
                    note = functools.partial(_note_inputs, given, known)
                    stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        for encoder in rewritten_encoders(model):
            stack.enter_context(_watched(encoder, given, runs))
        model(**inputs)
    return runs


def _note_inputs(
    given: dict[str, torch.Tensor], known: tuple[str, ...], module: nn.Module, args: tuple, kwargs: dict
) -> None:
    found = {**dict(zip(known, args)), **kwargs}
    wanted = (*_INPUTS, *_PACKED) if "grid_thw" in known else _INPUTS
    given.update({name: found[name] for name in wanted if isinstance(found.get(name), torch.Tensor)})


@contextlib.contextmanager
def _watched(encoder: nn.Module, given: dict[str, torch.Tensor], runs: list[EncoderRun]):
    """Inside the block, every forward of `encoder` that could merge adds to `runs`."""
    trace = RunTrace()

    def note(record):
        trace.note(record)

    def finish(module, args, output):
        nonlocal trace
        if trace:
            samples = trace.samples(len(encoder.pitome.specs))
            ids_restore = output.get("ids_restore") if hasattr(output, "get") else None
            runs.append(EncoderRun(encoder, samples, dict(given), ids_restore))
        trace = RunTrace()

    handle = encoder.register_forward_hook(finish)
    try:
        with layers_watched(encoder, note):
            yield
    finally:
        handle.remove()
