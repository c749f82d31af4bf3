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

"""How many operations a measured speed-up takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.utils import logging

from ..analysis.timing import Timing, time_batches
from ..apply import apply_pitome
from ..configuration.checks import NotReachedError, check_number
from ..configuration.config import PiToMeConfig
from .space import SearchSpace


_MOST_MEASUREMENTS = 10
#: Batches that are timed: a few of different lengths say as much as all.
_MOST_BATCHES = 4
#: What a budget is rounded to.
_DIGITS = 3


def tolerance_of(speed_up: float) -> float:
    """How far a measured speed-up may be from what was asked for: a tenth of the gain, and .02 at least, since two
    measurements differ as much."""
    return max(0.02, 0.1 * (speed_up - 1))


@dataclass(frozen=True)
class Speed:
    """A budget whose speed-up was measured.

    Attributes:
        config ([`PiToMeConfig`]), flops_ratio (`float`): the settings, and so many times fewer operations.
        timing ([`~analysis.timing.Timing`]): what was measured.
        num_settings (`int`): so many were.
    """

    config: PiToMeConfig
    flops_ratio: float
    timing: Timing
    num_settings: int


def check_speed_up(value: Any) -> float:
    return check_number("speed_up", value, 1.01, 100.0)


def timing_of(batches: Sequence[Mapping[str, Any]]) -> Callable[[nn.Module], Timing]:
    """Times a model on at most four of the batches, from the first to the last."""
    step = max(1, math.ceil(len(batches) / _MOST_BATCHES))
    return lambda model: time_batches(model, batches[step // 2 :: step])


def find_speed(space: SearchSpace, speed_up: float, timing: Callable[[nn.Module], Timing], progress: bool) -> Speed:
    """The budget at which the model is `speed_up` times as fast as dense, as near as [`tolerance_of`] it says. The
    model is left on it.

    Args:
        space ([`SearchSpace`]): of the model.
        timing (`Callable`): measures the model as it is set.

    Raises:
        NotReachedError: if the largest budget is not as fast, or measurements differ too much to tell.
    """
    most = space.most()
    # Budgets on both sides of the one that is sought, with their speed-ups.
    slow, fast = (1.0, 1.0), None
    budget, measured = min(speed_up, most), []
    with logging.tqdm(total=_MOST_MEASUREMENTS, disable=not progress, unit=" budgets timed", leave=False) as bar:
        while len(measured) < _MOST_MEASUREMENTS:
            budget = min(round(budget, _DIGITS), math.floor(most * 10**_DIGITS) / 10**_DIGITS)
            config = space.with_budget({"flops_ratio": budget})
            apply_pitome(space.model, config)
            found = timing(space.model)
            measured.append(Speed(config, budget, found, len(measured) + 1))
            bar.update()
            bar.set_postfix_str(f"{budget:.2f}x fewer operations, {found.speedup:.2f}x as fast")
            if abs(found.speedup - speed_up) <= tolerance_of(speed_up):
                return measured[-1]
            if found.speedup > speed_up:
                fast = budget, found.speedup
            elif budget + 10**-_DIGITS >= most:
                raise NotReachedError(
                    f"speed_up={speed_up:g} is not reached here: at {budget:.2f} times fewer operations, the most "
                    f"that merging saves, forwards are {_shown(found)}. Larger batches and longer inputs gain more."
                )
            else:
                slow = budget, found.speedup
            budget = _between(slow, fast, speed_up)
    nearest = min(measured, key=lambda one: abs(one.timing.speedup - speed_up))
    raise NotReachedError(
        f"speed_up={speed_up:g} was not met within {tolerance_of(speed_up):.2g} in {len(measured)} measurements. "
        f"Nearest to it, at {nearest.flops_ratio:.2f} times fewer operations, forwards are {_shown(nearest.timing)}. "
        "If the machine is busy, try again later; more inputs and larger batches can be timed more exactly."
    )


def _shown(timing: Timing) -> str:
    ends = f"{timing.speedup_low:.2f} to {timing.speedup_high:.2f}"
    return f"{timing.speedup:.2f} times as fast as dense (quartiles {ends}, {timing.rounds} rounds)"


def _between(slow: tuple[float, float], fast: tuple[float, float] | None, speed_up: float) -> float:
    """The budget to try next: on the line through the two, but never next to either, since measurements differ."""
    if fast is None:
        # The first budget was the speed-up itself; merging seldom saves less than half as much time as operations.
        gained = max(slow[1] - 1, 0.1 * (slow[0] - 1), 1e-3)
        return 1 + (slow[0] - 1) * min(max((speed_up - 1) / gained, 1.1), 2.0)
    share = (speed_up - slow[1]) / (fast[1] - slow[1]) if fast[1] > slow[1] else 0.5
    return slow[0] + min(max(share, 0.2), 0.8) * (fast[0] - slow[0])
