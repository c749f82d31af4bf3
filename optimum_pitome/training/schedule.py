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

"""How the ratio moves during training: [`RatioSchedule`] (pure) and [`RatioScheduler`], which moves it on a model."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..apply import apply_pitome
from ..configuration.checks import BUDGETS
from ..configuration.config import PiToMeConfig
from ..modeling.parts import settings_of


SCHEDULES = ("constant", "linear", "cosine", "stepped", "random")


@dataclass(frozen=True)
class RatioSchedule:
    """Which ratio a training step uses. A function of the step alone, so a resumed run continues exactly.

    The ratio goes from 1 to the target in `levels` equal jumps, not continuously: each ratio has its own token counts,
    for which `torch.compile` compiles once. With the default of 4 and a target of 0.9 it takes 1, .975, .95, .925, .9.

    Args:
        kind (`str`, *optional*, defaults to `"linear"`):
            `"constant"` holds the target; `"linear"` and `"cosine"` go there between `start` and `end`; `"stepped"`
            follows `milestones`; `"random"` draws a ratio of `ratio_range` for every step, each level equally often,
            so that one checkpoint serves many ratios.
        start, end (`float` or `int`, *optional*, default to 0.0 and 0.5):
            The stretch of training: a fraction of its steps (`float`, 0 to 1), or a number of steps (`int`).
        levels (`int`, *optional*, defaults to 4): Jumps between the two ends of the stretch, or of `ratio_range`.
        milestones (`Mapping[float | int, float]`, *optional*):
            Of `"stepped"`: from when on (as for `start`) which ratio is used; 1 before the first.
        ratio_range (`tuple[float, float]`, *optional*): Of `"random"`: the lowest and the highest ratio.
        seed (`int`, *optional*, defaults to 0): Of `"random"`.

    Raises:
        ValueError: for a value out of range.
    """

    kind: str = "linear"
    start: float | int = 0.0
    end: float | int = 0.5
    levels: int = 4
    milestones: Mapping[float | int, float] | None = None
    ratio_range: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self):
        if self.kind not in SCHEDULES:
            raise ValueError(f"schedule={self.kind!r} is not known. Accepted: {', '.join(map(repr, SCHEDULES))}.")
        for name in ("start", "end"):
            check_moment(name, getattr(self, name))
        if type(self.start) is type(self.end) and self.start > self.end:
            raise ValueError(f"start={self.start} is after end={self.end}.")
        if isinstance(self.levels, bool) or not isinstance(self.levels, int) or self.levels < 1:
            raise ValueError(f"levels={self.levels!r}: expected a number of jumps, at least 1.")
        if (self.kind == "stepped") != (self.milestones is not None):
            raise ValueError(
                "schedule='stepped' and milestones belong together: "
                "schedule='stepped', milestones={0.0: 0.95, 0.5: 0.9} holds 0.95 for the first half, then 0.9."
            )
        if self.milestones is not None and not isinstance(self.milestones, Mapping):
            raise ValueError(
                f"milestones={self.milestones!r}: expected from when on which ratio, {{0.0: 0.95, 0.5: 0.9}}."
            )
        for moment, ratio in (self.milestones or {}).items():
            check_moment("milestones", moment)
            PiToMeConfig(ratio=ratio)
        if (self.kind == "random") != (self.ratio_range is not None):
            raise ValueError(
                "schedule='random' and ratio_range belong together: schedule='random', ratio_range=(0.8, 1.0) draws "
                "a ratio between the two for every step."
            )
        if self.ratio_range is not None:
            if not isinstance(self.ratio_range, (list, tuple)) or len(self.ratio_range) != 2:
                raise ValueError(f"ratio_range={self.ratio_range!r}: expected the lowest ratio and the highest.")
            low, high = self.ratio_range
            PiToMeConfig(ratio=[low, high])
            if low > high:
                raise ValueError(f"ratio_range={self.ratio_range}: expected the lowest ratio, then the highest.")

    def config_at(self, step: int, num_steps: int, target: PiToMeConfig) -> PiToMeConfig:
        """The settings of training step `step` (from 0) of `num_steps`, on the way to `target`."""
        if self.kind == "constant":
            return target
        if self.kind == "stepped":
            reached = [moment for moment in self.milestones if moment_to_step(moment, num_steps) <= step]
            latest = max(reached, key=lambda moment: moment_to_step(moment, num_steps), default=None)
            return with_ratio(target, 1.0 if latest is None else self.milestones[latest])
        if self.kind == "random":
            return with_ratio(target, self._draw(step))
        return weakened(target, self._strength(step, num_steps))

    def _strength(self, step: int, num_steps: int) -> float:
        """From 0 (nothing merges) to 1 (the target)."""
        start, end = moment_to_step(self.start, num_steps), moment_to_step(self.end, num_steps)
        if step >= end:
            return 1.0
        if step <= start:
            return 0.0
        progress = (step - start) / (end - start)
        if self.kind == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return math.floor(progress * self.levels + 1e-9) / self.levels

    def _draw(self, step: int) -> float:
        low, high = self.ratio_range
        # Every block of steps has each level once: no ratio is starved by chance.
        block, place = divmod(step, self.levels + 1)
        order = list(range(self.levels + 1))
        random.Random(f"{self.seed}-{block}").shuffle(order)
        return round(low + (high - low) * order[place] / self.levels, 6)


def weakened(config: PiToMeConfig, strength: float) -> PiToMeConfig:
    """`config` with every ratio moved towards 1: `1 - strength * (1 - ratio)`; of `flops_ratio` the share of the
    operations that is saved, `strength * (1 - 1 / flops_ratio)`. Lists and parts keep their shape.

    Raises:
        ValueError: if `config` asks for a number of tokens.
    """

    def weaken(settings):
        if settings.get("num_tokens") is not None:
            raise ValueError(
                f"num_tokens={settings['num_tokens']}: the way there from the dense model depends on the model. Use "
                "flops_ratio or ratio, or schedule='constant'."
            )
        if settings.get("flops_ratio") is not None:
            saved = strength * (1 - 1 / settings["flops_ratio"])
            return {**settings, "flops_ratio": round(1 / (1 - saved), 6)}
        ratio = settings.get("ratio")
        if isinstance(ratio, list):
            return {**settings, "ratio": [round(1 - strength * (1 - item), 6) for item in ratio]}
        return settings if ratio is None else {**settings, "ratio": round(1 - strength * (1 - ratio), 6)}

    return config if strength == 1 else _map_settings(config, weaken)


def with_ratio(config: PiToMeConfig, ratio: float) -> PiToMeConfig:
    """`config` with one ratio everywhere.

    Raises:
        ValueError: if `config` has a ratio per layer or a budget, which one ratio (but 1) would throw away.
    """

    def replace(settings):
        given = [name for name in BUDGETS if settings.get(name) is not None]
        if given and (given != ["ratio"] or isinstance(settings["ratio"], list)) and ratio != 1:
            raise ValueError(
                f"The settings have {'a ratio per layer' if given == ['ratio'] else given[0]}, which {ratio:g} for "
                "all layers cannot stand for. eval_ratios, schedule='random' and schedule='stepped' need settings "
                "with a single ratio; schedule='linear' and 'cosine' scale a list, and flops_ratio."
            )
        rest = {name: value for name, value in settings.items() if name not in (*BUDGETS, "profile")}
        return {**rest, "ratio": float(ratio)} if given else settings

    return _map_settings(config, replace)


def _map_settings(config: PiToMeConfig, change: Callable[[dict[str, Any]], dict[str, Any]]) -> PiToMeConfig:
    """`config` with `change` made to what all parts share, and to what each has of its own."""
    settings = change(config.to_pitome_dict())
    if "parts" in settings:
        settings["parts"] = {name: change(part) for name, part in settings["parts"].items()}
    return PiToMeConfig(**settings)


class RatioScheduler:
    """Moves the ratio of a model along a [`RatioSchedule`], as an LR scheduler moves the learning rate.

    ```python
    scheduler = RatioScheduler(model, 0.9, num_training_steps=1000)
    for step, batch in enumerate(loader):
        scheduler.set_step(step)              # before the forward
        ...
    scheduler.finish()                        # the target, for evaluating and saving
    ```

    It has no state: `set_step` takes the step from the caller, after resuming, too. The model may be wrapped (DDP,
    FSDP, `torch.compile`) before or after; under FSDP it must be rewritten before.

    Args:
        model (`torch.nn.Module`): a model that [`apply_pitome`] takes.
        config ([`PiToMeConfig`], `dict` or `float`, *optional*): the target. `None`: what the model is set to.
        num_training_steps (`int`): optimizer steps in all.
        schedule ([`RatioSchedule`], *optional*): linear over the first half by default.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Any = None,
        *,
        num_training_steps: int,
        schedule: RatioSchedule | None = None,
    ):
        self.model = unwrap(model)
        self.target = target_settings(self.model, config)
        self.schedule = schedule or RatioSchedule()
        self.num_training_steps = num_training_steps
        self.current = settings_of(self.model)
        # What the settings could get wrong shows now, not in mid-training.
        self.set_config(self.schedule.config_at(0, num_training_steps, self.target))
        self.finish()

    def set_step(self, step: int) -> PiToMeConfig:
        """Puts the model on the ratio of `step` (from 0); returns its settings."""
        self.set_config(self.schedule.config_at(step, self.num_training_steps, self.target))
        return self.current

    def finish(self) -> None:
        """Puts the model on the target: for evaluating, and so that what is saved says the final settings."""
        self.set_config(self.target)

    @contextlib.contextmanager
    def at(self, ratio: float) -> Iterator[nn.Module]:
        """Inside the block, the model merges at `ratio`."""
        before = self.current
        self.set_config(with_ratio(self.target, ratio))
        try:
            yield self.model
        finally:
            self.set_config(before)

    def set_config(self, config: PiToMeConfig) -> None:
        """Puts the model on `config`."""
        if config != self.current:
            apply_pitome(self.model, config)
        self.current = config


def target_settings(model: nn.Module, config: Any) -> PiToMeConfig:
    """`config`, or what `model` is set to.

    Raises:
        ValueError: if neither says anything.
    """
    found = PiToMeConfig.from_value(config)
    found = settings_of(model) if found is None else found
    if found is None:
        raise ValueError(
            f"This {type(model).__name__} is dense, and no settings were given. Name the target, PiToMeCallback(0.9), "
            "or load the model with pitome=0.9."
        )
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DDP, or `torch.compile`."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def check_moment(name: str, value: Any) -> None:
    """Refuses what [`moment_to_step`] cannot read."""
    accepted = "a fraction of the training steps (a float in [0, 1]) or a number of steps (an int)"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r}: expected {accepted}.")
    if value < 0 or isinstance(value, float) and value > 1:
        raise ValueError(f"{name}={value!r} is out of range: expected {accepted}.")


def moment_to_step(moment: float | int, num_steps: int) -> int:
    """A fraction of `num_steps` (a float), or a step (an int), as a step."""
    return moment if isinstance(moment, int) else round(moment * num_steps)
