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

"""[`find_budget`]: the fewest operations that still keep what the dense model says, or as few as a speed asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.utils import logging

from ..analysis.intervals import Z_95, half_width
from ..analysis.loss import Distance, Samples, checked
from ..analysis.timing import Timing
from ..apply import apply_pitome, settings_kept
from ..configuration.checks import NotReachedError, check_number
from ..configuration.config import PiToMeConfig
from ..evaluation.metrics import wilson_interval
from ..modeling.eval_mode import eval_mode
from .space import SearchSpace
from .speed import check_speed_up, find_speed, timing_of


#: Budgets are tried in steps of this.
_STEP = 0.05
#: More than this is not looked for: no model at hand keeps anything there.
_MOST = 4.0
SPEED_UP = "speed-up"


@dataclass(frozen=True)
class Tried:
    """A budget that was tried: the fields are those of [`Choice`]."""

    flops_ratio: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """A budget that was found.

    Attributes:
        config ([`PiToMeConfig`]): the settings.
        flops_ratio (`float`): so many times fewer operations.
        name (`str`): what is bounded: `"agreement"`, `"loss"` or `"speed-up"`.
        value, low, high (`float`): what was measured, with its 95 % interval; of a speed-up, the quartiles.
        num_samples (`int`): on so many inputs.
        num_settings (`int`): so many settings were tried, each on all of them.
        next ([`Tried`], *optional*):
            The next larger budget, which does not keep the bound. `None` of a speed-up, and where there is no larger
            one.
        num_tokens (`int`): the length that operations were counted at.
        loss_name (`str`): which loss it is, in words; empty of what is no loss.
    """

    config: PiToMeConfig
    flops_ratio: float
    name: str
    value: float
    low: float
    high: float
    num_samples: int
    num_settings: int
    next: Tried | None = None
    num_tokens: int = 0
    loss_name: str = ""

    def __str__(self) -> str:
        ends = "quartiles" if self.name == SPEED_UP else "95 % interval"
        text = (
            f"{self.flops_ratio:.2f}x fewer operations: {self.name} {self.value:.4g} "
            f"({ends} {self.low:.4g} to {self.high:.4g}, {self.num_samples} inputs, "
            f"{self.num_settings} settings tried)"
        )
        if self.next is not None:
            text += (
                f"\n{self.next.flops_ratio:.2f}x does not keep the bound, for which the whole interval counts: "
                f"{self.name} {self.next.value:.4g} "
                f"({ends} {self.next.low:.4g} to {self.next.high:.4g})"
            )
        text += f"\nOperations are counted at {self.num_tokens} tokens."
        return f"{text} The loss is {self.loss_name}." if self.loss_name else text


def find_budget(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    min_agreement: float | None = None,
    max_loss: float | None = None,
    speed_up: float | None = None,
    distance: Distance | None = None,
    timing: Callable[[nn.Module], Timing] | None = None,
    progress: bool = True,
) -> Choice:
    """The largest `flops_ratio` at which a model still says what its dense self says, on inputs without labels; or the
    one at which it is so many times as fast on this machine.

    Halves the interval of budgets, in steps of 0.05, so it costs about seven merged forwards of all inputs and a dense
    one. What it finds holds with its whole 95 % interval. The model is left on it.

    A speed-up is measured: forwards of at most four of the batches, dense and merged by turns, the median of five
    rounds. Budgets are tried until one comes as near as a tenth of the gain (1.45 to 1.55 for 1.5), or .02. The
    settings are those of the profile: how fast a model is follows from how much it merges, and hardly from where.

    Args:
        model, batches, distance, progress: as in [`tune_ratios`].
        min_agreement (`float`, *optional*): the share of inputs that must get the dense model's class, in (0, 1).
        max_loss (`float`, *optional*): or the largest mean loss, above 0: see [`~analysis.loss.Samples.losses`].
        speed_up (`float`, *optional*): or how many times as fast as the dense model it is to be, above 1.
        timing (`Callable`, *optional*):
            Measures the model as it is set, in place of [`~analysis.timing.time_batches`] on the batches.

    Returns:
        [`Choice`].

    Raises:
        ValueError: if not exactly one bound is given, the model has no classes to agree on, there are too few inputs
            for the bound, no budget keeps it, or none is as fast.
    """
    min_agreement, max_loss, speed_up = check_bound(min_agreement, max_loss, speed_up)
    batches = checked(batches)
    with eval_mode(model), settings_kept(model):
        if speed_up is not None:
            choice = _find_speed(model, batches, speed_up, timing, progress)
        else:
            choice = _find(model, batches, min_agreement, max_loss, distance, progress)
    apply_pitome(model, choice.config)
    return choice


def check_bound(
    min_agreement: float | None = None, max_loss: float | None = None, speed_up: float | None = None
) -> tuple[float | None, float | None, float | None]:
    """The bounds of [`find_budget`].

    Raises:
        ValueError: if not exactly one is given, or it is out of range.
    """
    if sum(bound is not None for bound in (min_agreement, max_loss, speed_up)) != 1:
        raise ValueError("Give min_agreement, max_loss or speed_up, one of them.")
    if min_agreement is not None:
        min_agreement = check_number("min_agreement", min_agreement, 0.0, 1.0, open_end=True)
    elif speed_up is not None:
        speed_up = check_speed_up(speed_up)
    else:
        max_loss = check_number("max_loss", max_loss, 1e-9, math.inf)
    return min_agreement, max_loss, speed_up


def check_number_of_inputs(number: int, min_agreement: float | None) -> None:
    """
    Raises:
        ValueError: if so few inputs cannot show the agreement.
    """
    needed = 0 if min_agreement is None else math.ceil(Z_95**2 * min_agreement / (1 - min_agreement))
    if number < needed:
        raise ValueError(
            f"{number} inputs cannot show an agreement of {min_agreement:g}, even if all of them agree: the "
            f"lower end of the 95 % interval must reach it, which takes at least {needed} inputs."
        )


def _find(model, batches, min_agreement, max_loss, distance, progress) -> Choice:
    space = SearchSpace(model, 1.0, batches=batches)
    samples = Samples(model, batches, distance)
    if min_agreement is not None:
        samples.check_classes()
    check_number_of_inputs(len(samples), min_agreement)
    most = min(space.most(), _MOST)
    low, high, tried, best = 0, int((most - 1) / _STEP) + 1, 0, None
    failed = None
    if high < 2:
        raise NotReachedError(f"Merging saves next to nothing here: at most {most:.2f} times fewer operations.")
    bar = logging.tqdm(total=high.bit_length(), disable=not progress, unit=" budgets")
    while high - low > 1:
        middle = (low + high) // 2
        budget = round(1 + middle * _STEP, 2)
        config = space.with_budget({"flops_ratio": budget})
        apply_pitome(model, config)
        name, value, interval, count = _measure(samples, min_agreement)
        tried += 1
        bar.update()
        holds = interval[0] >= min_agreement if max_loss is None else interval[1] <= max_loss
        if holds:
            low, best = middle, (config, budget, name, value, *interval, count)
        else:
            high, failed = middle, Tried(budget, value, *interval)
    bar.close()
    if best is None:
        bound = f"min_agreement={min_agreement}" if max_loss is None else f"max_loss={max_loss}"
        raise NotReachedError(
            f"No budget keeps {bound} here: at {budget} times fewer operations the {name} is {value:.4g} (95 % "
            f"interval {interval[0]:.4g} to {interval[1]:.4g}, {count} inputs). The whole interval must keep it: give "
            "more inputs, or a bound that is easier to keep."
        )
    name = samples.loss_name if min_agreement is None else ""
    return Choice(*best, tried, failed, space.shape.num_tokens, name)


def _find_speed(model, batches, speed_up, timing, progress) -> Choice:
    space = SearchSpace(model, 1.0, batches=batches)
    found = find_speed(space, speed_up, timing or timing_of(batches), progress)
    number = sum(len(next(iter(batch.values()))) for batch in batches)
    ends = found.timing.speedup, found.timing.speedup_low, found.timing.speedup_high
    return Choice(
        found.config, found.flops_ratio, SPEED_UP, *ends, number, found.num_settings, None, space.shape.num_tokens
    )


def _measure(samples: Samples, min_agreement: float | None) -> tuple[str, float, tuple[float, float], int]:
    """What is bounded, its mean, its interval, and the number of samples."""
    if min_agreement is not None:
        agrees = samples.agreement()
        count = len(agrees)
        right = int(agrees.sum())
        return "agreement", right / count, wilson_interval(right, count), count
    losses = samples.losses().double()
    count = len(losses)
    half, mean = float(half_width(losses)), float(losses.mean())
    return "loss", mean, (mean - half, mean + half), count
