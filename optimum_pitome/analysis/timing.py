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

"""Dense against merged, timed side by side: [`DenseMergedTimer`]."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..apply import apply_pitome, pitome_disabled


Output = TypeVar("Output")


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds of a [`DenseMergedTimer`].

    Attributes:
        dense_ms, merged_ms (`float`): milliseconds of one run without and with merging.
        speedup (`float`): dense over merged time; the median of the ratios inside the rounds.
        speedup_low, speedup_high (`float`): quartiles of those ratios.
        rounds (`int`): how often each was timed.
    """

    dense_ms: float
    merged_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    rounds: int

    @classmethod
    def of(cls, dense: Sequence[float], merged: Sequence[float]) -> Timing:
        """Medians and quartiles of the seconds of each round.

        Raises:
            ValueError: if nothing was timed.
        """
        if not dense:
            raise ValueError("Nothing was timed: call run() first.")
        ratios = [first / second for first, second in zip(dense, merged)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        medians = (statistics.median(dense) * 1e3, statistics.median(merged) * 1e3, statistics.median(ratios))
        return cls(*medians, low, high, len(ratios))

    def __str__(self) -> str:
        return (
            f"{self.dense_ms:.4g} ms dense, {self.merged_ms:.4g} ms merged: {self.speedup:.2f}x "
            f"(quartiles {self.speedup_low:.2f} to {self.speedup_high:.2f}, {self.rounds} rounds)"
        )


class DenseMergedTimer:
    """Times the dense and the merged forward (or training step) of one rewritten model, alternating in one process.

    A machine that slows down or is shared slows all of them, and which goes first changes from round to round; the
    medians forgive what hits one of them.

    Example:

    ```python
    timer = DenseMergedTimer(model)
    for _ in range(20):
        timer.run(lambda: model(**inputs))
    print(timer.result())
    ```

    Args:
        model (`torch.nn.Module`): a rewritten model.
        warmup (`int`, *optional*, defaults to 1): rounds before the first, not timed.
        gradients (`bool`, *optional*, defaults to `False`): whether gradients are recorded, for training steps.
        settings (`Sequence`, *optional*):
            What [`apply_pitome`] takes, for each of several merged runs in a round. `None`: as the model is.

    Attributes:
        seconds (`list[list[float]]`): of every round: of the dense model, then of each of the settings.
    """

    def __init__(self, model: nn.Module, warmup: int = 1, gradients: bool = False, settings: Sequence[Any] = (None,)):
        self._model, self._warmup, self._gradients, self._settings = model, warmup, gradients, settings
        self.seconds: list[list[float]] = [[] for _ in range(1 + len(settings))]

    def run(self, forward: Callable[[], Output]) -> list[Output]:
        """One round. Returns what `forward` returned dense, and with each of the settings."""
        number = len(self.seconds)
        outputs: list[Any] = [None] * number
        with torch.set_grad_enabled(self._gradients):
            for _ in range(self._warmup):
                for which in range(number):
                    self._timed(which, forward)
            self._warmup = 0
            first = len(self.seconds[0])
            for which in [(first + step) % number for step in range(number)]:
                outputs[which], seconds = self._timed(which, forward)
                self.seconds[which].append(seconds)
        return outputs

    def result(self) -> Timing:
        """The medians so far, of the dense model and the first of the settings.

        Raises:
            ValueError: if nothing was timed.
        """
        return Timing.of(*self.seconds[:2])

    def _timed(self, which: int, forward: Callable[[], Output]) -> tuple[Output, float]:
        if which > 0 and self._settings[which - 1] is not None:
            apply_pitome(self._model, self._settings[which - 1])
        with contextlib.nullcontext() if which > 0 else pitome_disabled(self._model):
            self._synchronize()
            start = time.perf_counter()
            output = forward()
            self._synchronize()
            return output, time.perf_counter() - start

    def _synchronize(self) -> None:
        # An accelerator works while the host goes on: without this only the launches would be timed.
        if next(self._model.parameters()).device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize()


def time_batches(model: nn.Module, batches: Sequence[Mapping[str, Any]], rounds: int = 5) -> Timing:
    """How long the forwards of some batches take, without and with merging, in milliseconds of all of them together.

    Args:
        model (`torch.nn.Module`): a rewritten model.
        batches (`Sequence[Mapping]`): inputs of `model`. In a round, each runs dense and merged.
        rounds (`int`, *optional*, defaults to 5): how often; after one that does not count.
    """
    timers = [DenseMergedTimer(model) for _ in batches]
    for _ in range(rounds):
        for timer, batch in zip(timers, batches):
            timer.run(lambda: model(**batch))
    dense, merged = (zip(*(timer.seconds[which] for timer in timers)) for which in (0, 1))
    return Timing.of(list(map(sum, dense)), list(map(sum, merged)))
