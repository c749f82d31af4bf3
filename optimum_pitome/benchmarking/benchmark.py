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

"""[`Benchmark`]: from combinations to rows."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..analysis import pitome_summary
from ..analysis.timing import AlternatingTimer, DenseMergedTimer, synchronize
from ..apply import apply_pitome, pitome_disabled
from ..export.quantization import quantized
from ..export.runtimes import ExportedFiles
from ..modeling.rewrite import rewritten_encoders
from . import costs
from .combinations import PYTORCH, Combination
from .inputs import example_inputs
from .machine import device_of
from .row import Row
from .runtimes import exported_runs, pytorch_run


#: Rounds that a row has, however slow it is.
_FEWEST_ROUNDS = 3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
#: Errors that say what was asked for in vain.
_KNOWN = (ValueError, ImportError)

Inputs = Mapping[str, torch.Tensor]


@dataclass
class _Built:
    """A model that several combinations have in common, and what was made of it."""

    model: nn.Module
    int8: nn.Module | None = None
    operations: dict[Any, tuple[float, float]] = field(default_factory=dict)


class Benchmark:
    """Measures combinations one after the other, dense and merged alternating. What they have in common (a model, an
    exported file) is made once, as long as they come in the order of [`combinations`].

    Args:
        build (`Callable[[Combination], nn.Module]`): the model of a combination, rewritten, on the CPU.
        device (`str`, *optional*, defaults to `"cpu"`).
        rounds (`int`, *optional*, defaults to 20): how often each is timed.
        warmup (`int`, *optional*, defaults to 3): rounds before that, which do not count.
        max_seconds (`float`, *optional*): of a row: no new round begins after that, once there were three.
        clock (`str`, *optional*, defaults to `"wall"`): or `"cpu"`, processor time, for machines that others use.
        progress (`Callable[[str], None]`, *optional*): is told what is being done.
    """

    def __init__(
        self,
        build: Callable[[Combination], nn.Module],
        device: str = "cpu",
        rounds: int = 20,
        warmup: int = 3,
        max_seconds: float | None = None,
        clock: str = "wall",
        progress: Callable[[str], None] = lambda text: None,
    ):
        self._build, self._device = build, device_of(device)
        self._rounds, self._warmup, self._max_seconds, self._progress = rounds, warmup, max_seconds, progress
        if clock == "cpu" and self._device.type != "cpu":
            raise ValueError(f"clock='cpu' is the processor's time, and {self._device} works beside it: use 'wall'.")
        self._clock = CLOCKS[clock]
        self._key: Any = None
        self._built: _Built | None = None
        self._files = ExportedFiles()

    def row(self, combination: Combination) -> Row:
        """Measures one. What cannot run is a row that says why."""
        try:
            combination.check(str(self._device))
            return self._measured(combination)
        except Exception as error:  # of exporters, compilers and runtimes, which have many classes
            if not isinstance(error, _KNOWN):
                self._forget()  # memory may have run out
            return Row(combination, error=_said(error))

    def _measured(self, combination: Combination) -> Row:
        built = self._model(combination)
        model = built.model
        inputs = example_inputs(model, combination.batch_size, combination.sequence_length, combination.image_size)
        inputs = {name: value.to(self._device) for name, value in inputs.items()}
        lengths = lengths_of(model, combination.sequence_length)
        summary = pitome_summary(model, num_tokens=lengths, image_size=combination.image_size)
        reference = self._reference(model, inputs) if not combination.exact else None
        if combination.runtime == PYTORCH:
            chosen = self._quantized(built, combination) if combination.quantize else model
            run = pytorch_run(chosen, combination)
            gradients = combination.measure == "training"
            timer: AlternatingTimer = DenseMergedTimer(
                chosen.train(gradients), self._warmup, gradients, clock=self._clock
            )
            runs = (lambda: run(**inputs),)
        else:
            self._progress("exporting")
            files = exported_runs(self._files, model, combination, inputs)
            timer = AlternatingTimer(
                [contextlib.nullcontext] * 2, self._warmup, device=self._device, clock=self._clock
            )
            runs = tuple(lambda one=one: one(inputs) for one in files)
        self._progress("timing")
        operations = self._operations(built, combination)
        outputs = self._time(timer, runs)
        row = Row.of(
            combination, timer.result(), operations, summary.flops_ratio, type(model).__name__, summary.tokens
        )
        if reference is not None:
            row = dataclasses.replace(row, **_losses(reference, outputs))
        if combination.runtime != PYTORCH:
            return row
        self._progress("measuring memory")
        with torch.set_grad_enabled(combination.measure == "training"):
            with pitome_disabled(chosen):
                dense = costs.peak_memory(runs[0], self._device)
            merged = costs.peak_memory(runs[0], self._device)
            share = None
            if combination.measure == "forward" and combination.mode == "eager" and not combination.quantize:
                seconds = costs.merge_seconds(chosen, runs[0], lambda: synchronize(self._device), self._clock)
                share = 1e3 * seconds / row.merged_ms
        return dataclasses.replace(row, peak_dense=dense, peak_merged=merged, merge_share=share)

    def _time(self, timer: AlternatingTimer, runs: tuple[Callable[[], Any], ...]) -> list[Any]:
        outputs, end = [], None
        for number in range(1, 1 + self._rounds):
            outputs = timer.run(*runs)
            end = end or time.monotonic() + (self._max_seconds or float("inf"))  # warming up does not count
            if number >= _FEWEST_ROUNDS and time.monotonic() > end:
                break
        return outputs

    def _model(self, combination: Combination) -> _Built:
        key = (combination.model, combination.dtype, combination.attention, combination.image_size)
        if key != self._key or self._built is None:
            self._forget()
            self._progress("building the model")
            torch.manual_seed(0)
            self._key, self._built = key, _Built(self._build(combination).eval().to(self._device))
        settings = combination.settings_dict()
        if settings is not None:
            apply_pitome(self._built.model, settings)
        self._built.model.eval()
        return self._built

    def _quantized(self, built: _Built, combination: Combination) -> nn.Module:
        if built.int8 is None:
            built.int8 = quantized(built.model)
        settings = combination.settings_dict()
        return built.int8 if settings is None else apply_pitome(built.int8, settings)

    def _operations(self, built: _Built, combination: Combination) -> tuple[float, float]:
        """10**9 multiply-adds per sample, dense and merged; of a training step those of its forward."""
        first = combination.measure == "first-token"
        key = (combination.settings, combination.sequence_length, first)
        if key not in built.operations:
            measure, model = "first-token" if first else "forward", built.model
            run = pytorch_run(model, dataclasses.replace(combination, measure=measure, mode="eager"))
            inputs = example_inputs(model, 1, combination.sequence_length, combination.image_size)
            inputs = {name: value.to(self._device) for name, value in inputs.items()}
            with pitome_disabled(model):
                dense = costs.count_operations(lambda: run(**inputs))
            built.operations[key] = dense, costs.count_operations(lambda: run(**inputs))
        return built.operations[key]

    @torch.no_grad()
    def _reference(self, model: nn.Module, inputs: Inputs) -> tuple[Any, Any]:
        """What the model says in PyTorch and its own dtype, dense and merged."""
        with pitome_disabled(model):
            dense = model(**inputs)
        return dense, model(**inputs)

    def _forget(self) -> None:
        self._key = self._built = None
        self._files.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _losses(reference: tuple[Any, Any], outputs: list[Any]) -> dict[str, float | None]:
    dense, merged = reference
    return {
        "loss_merging": costs.loss(dense, merged),
        "loss_dense": costs.loss(dense, outputs[0]),
        "loss_merged": costs.loss(merged, outputs[1]),
        "loss_both": costs.loss(dense, outputs[1]),
    }


def lengths_of(model: nn.Module, sequence_length: int | None) -> list[int | None]:
    """Of the sequences that enter each rewritten encoder; `None`: as its configuration says."""
    encoders = rewritten_encoders(model)
    return [sequence_length if encoder.pitome.architecture.part == "text" else None for encoder in encoders]


def _said(error: Exception) -> str:
    """The first sentence of an error, for a cell of a table."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return text if text and isinstance(error, _KNOWN) else f"{type(error).__name__}: {text}".removesuffix(": ")
