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

"""What runs in a row: a model in PyTorch (eager, compiled, int8), or files that were exported from it."""

from __future__ import annotations

import contextlib
import copy
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..apply import pitome_disabled
from ..export.export import prepare_export
from ..export.formats import WRITERS, Run
from ..export.quantization import QUANTIZERS
from ..export.requirements import check_request
from .combinations import CUDA_GRAPHS, Combination


def training_step(forward: Callable[..., Any], model: nn.Module) -> Callable[..., None]:
    """Forward, backward, and update. What the loss is does not matter for the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(**batch: torch.Tensor) -> None:
        forward(**batch)[0].float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pytorch_run(model: nn.Module, combination: Combination) -> Callable[..., Any]:
    """The forward, first token or training step of `model`.

    Raises:
        ValueError: if it makes no tokens.
    """
    if combination.measure == "first-token":
        if not (hasattr(model, "can_generate") and model.can_generate()):
            raise ValueError(f"{type(model).__name__} does not generate, so it has no first token")
        return lambda **batch: model.generate(**batch, max_new_tokens=1, do_sample=False, pad_token_id=0)
    forward: Callable[..., Any] = model
    if combination.mode != "eager":
        # What was compiled before counts towards the limit of compilations.
        torch._dynamo.reset()
        mode = None if combination.mode == "compile" else combination.mode
        forward = torch.compile(model, mode=mode, dynamic=False)
    if combination.measure == "training":
        return training_step(forward, model)
    if combination.mode not in CUDA_GRAPHS:
        return forward

    def fresh(**batch: torch.Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the last outputs may be written over
        return forward(**batch)

    return fresh


def quantized(model: nn.Module) -> nn.Module:
    """A copy with int8 weights in its linear layers, and activations that become int8 while it runs (torchao).

    Raises:
        ImportError: if torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        raise ImportError("int8 in PyTorch needs torchao: pip install torchao") from None
    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


class ExportedFiles:
    """Files that were exported from one model, each written once, in a folder that goes with the object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pitome-benchmark-")
        self._files: dict[tuple[Any, ...], Path] = {}

    def clear(self) -> None:
        self._files.clear()
        self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory(prefix="pitome-benchmark-")

    def runs(
        self, model: nn.Module, combination: Combination, calibration: Mapping[str, torch.Tensor]
    ) -> tuple[Run, Run]:
        """Dense and merged, loaded.

        Args:
            model (`torch.nn.Module`): merges as the combination says, in float32 on the CPU.
            calibration (`Mapping`): a batch, for int8 in OpenVINO; its shapes are those that the runtime plans for.
        """
        check_request(combination.runtime, combination.quantize)
        load = WRITERS[combination.runtime].load
        with contextlib.redirect_stdout(sys.stderr):  # exporters print how far they are; stdout is for results
            with pitome_disabled(model):
                dense = self._file(model, combination, None, calibration)
            merged = self._file(model, combination, combination.settings or "configured", calibration)
        shapes = {name: tuple(value.shape) for name, value in calibration.items()}
        return load(dense, shapes), load(merged, shapes)

    def _file(self, model: nn.Module, combination: Combination, settings: str | None, calibration: Any) -> Path:
        runtime, quantize = combination.runtime, combination.quantize
        key = (runtime, quantize, settings)
        if key in self._files:
            return self._files[key]
        floats = None
        if quantize is not None:
            floats = self._file(model, replace(combination, quantize=None), settings, calibration)
        file = Path(self._folder.name) / str(len(self._files)) / WRITERS[runtime].file
        if floats is None:
            file.parent.mkdir(parents=True)
            prepared = prepare_export(model)
            WRITERS[runtime].write(prepared.module, prepared.example, None, file)
        else:
            shutil.copytree(floats.parent, file.parent)
            QUANTIZERS[runtime](file, [calibration])
        self._files[key] = file
        return file
