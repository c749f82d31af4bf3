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

"""Dense against merged, timed side by side: [`DenseMergedTimer`], and [`AlternatingTimer`] for anything else."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..apply import apply_pitome, pitome_disabled
from .report import milliseconds


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds of an [`AlternatingTimer`].

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
            f"{milliseconds(self.dense_ms)} ms dense, {milliseconds(self.merged_ms)} ms merged: {self.speedup:.2f}x "
            f"(quartiles {self.speedup_low:.2f} to {self.speedup_high:.2f}, {self.rounds} rounds)"
        )


class AlternatingTimer:
    """Times several ways to do the same, in turn, in one process.

    A machine that slows down or is shared slows all of them, and which goes first changes from round to round; the
    medians forgive what hits one of them.

    Args:
        contexts (`Sequence[Callable]`): for each of the ways, what makes the context that it runs in (untimed).
        warmup (`int`, *optional*, defaults to 1): rounds before the first, not timed.
        gradients (`bool`, *optional*, defaults to `False`): whether gradients are recorded, for training steps.
        device (`torch.device`, *optional*): what has to finish before the clock is read. `None`: the CPU alone.
        clock (`Callable`, *optional*): seconds; `time.process_time` for processor time instead of `time.perf_counter`.

    Attributes:
        seconds (`list[list[float]]`): of every round, for each of the ways.
    """

    def __init__(
        self,
        contexts: Sequence[Callable[[], AbstractContextManager]],
        warmup: int = 1,
        gradients: bool = False,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._clock = clock
        self._contexts, self._warmup, self._gradients, self._device = contexts, warmup, gradients, device
        self.seconds: list[list[float]] = [[] for _ in contexts]

    def run(self, *forwards: Callable[[], Any]) -> list[Any]:
        """One round of one function in every context, or of one for each. Returns what they returned."""
        number = len(self.seconds)
        forwards = forwards * number if len(forwards) == 1 else forwards
        outputs: list[Any] = [None] * number
        with torch.set_grad_enabled(self._gradients):
            for _ in range(self._warmup):
                for which in range(number):
                    self._timed(which, forwards[which])
            self._warmup = 0
            first = len(self.seconds[0])
            for which in [(first + step) % number for step in range(number)]:
                outputs[which], seconds = self._timed(which, forwards[which])
                self.seconds[which].append(seconds)
        return outputs

    def result(self) -> Timing:
        """The medians so far, of the first way (dense) and the second.

        Raises:
            ValueError: if nothing was timed.
        """
        return Timing.of(*self.seconds[:2])

    def _timed(self, which: int, forward: Callable[[], Any]) -> tuple[Any, float]:
        with self._contexts[which]():
            synchronize(self._device)
            start = self._clock()
            output = forward()
            synchronize(self._device)
            return output, self._clock() - start


def synchronize(device: torch.device | None) -> None:
    """An accelerator works while the host goes on: without this only the launches would be timed."""
    if device is not None and device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize()


class DenseMergedTimer(AlternatingTimer):
    """Times the dense and the merged forward (or training step) of one rewritten model.

    Example:

    ```python
    timer = DenseMergedTimer(model)
    for _ in range(20):
        timer.run(lambda: model(**inputs))
    print(timer.result())
    ```

    Args:
        model (`torch.nn.Module`): a rewritten model.
        warmup, gradients, clock: as of [`AlternatingTimer`].
        settings (`Sequence`, *optional*):
            What [`apply_pitome`] takes, for each of several merged runs in a round. `None`: as the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        warmup: int = 1,
        gradients: bool = False,
        settings: Sequence[Any] = (None,),
        clock: Callable[[], float] = time.perf_counter,
    ):
        contexts = [functools.partial(pitome_disabled, model)]
        contexts += [functools.partial(_set_to, model, one) for one in settings]
        super().__init__(contexts, warmup, gradients, next(model.parameters()).device, clock)


def _set_to(model: nn.Module, settings: Any) -> AbstractContextManager:
    if settings is not None:
        apply_pitome(model, settings)
    return contextlib.nullcontext()


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
