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

"""[`tune_ratios`]: the ratios per layer that keep a model closest to its dense self, within a budget."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn
from transformers.utils import logging

from ..analysis.loss import Distance, Samples, checked, set_apart
from ..analysis.summary import pitome_summary
from ..analysis.timing import Timing
from ..apply import apply_pitome, settings_kept
from ..configuration.config import PiToMeConfig
from ..methods import first_third, profile_of
from ..modeling.eval_mode import eval_mode
from .found import PARTS, Found
from .record import SearchRecord
from .space import SearchSpace
from .speed import check_speed_up, find_speed, timing_of


logger = logging.get_logger(__name__)

#: The profiles that the search compares first, by name: how late they merge (see [`~methods.profile_of`]), and the
#: one for models that label every token.
STARTS: dict[str, Callable[[float, float], float]] = {
    "profile uniform": profile_of(0.0),
    "profile of lateness 0.05": profile_of(0.05),
    "profile balanced": profile_of(0.1),
    "profile late": profile_of(0.2),
    "profile of lateness 0.4": profile_of(0.4),
    "profile early": first_third,
}
#: With so many of them, the best ones, other means are compared. With the best one alone, chance decides more often
#: which one that is (docs/results.md).
_WITH_MEANS = 2
#: The search starts with steps of this size, in powers of e by which a layer removes more or less.
_STEP = 0.4
#: It ends where so many generations together gained less than one percent.
_PATIENCE = 6


def tune_ratios(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    flops_ratio: float | None = None,
    *,
    num_tokens: int | None = None,
    speed_up: float | None = None,
    sequence_length: int | None = None,
    distance: Distance | None = None,
    timing: Callable[[nn.Module], Timing] | None = None,
    max_settings: int = 100,
    seed: int = 0,
    resume_from: str | os.PathLike | None = None,
    progress: bool = True,
) -> PiToMeConfig:
    """Searches a ratio for every layer on a few inputs, without labels and without gradient.

    Compares profiles that merge more or less late and, with the best two of them, other weights in the means and
    `keep_norm` of 0.5 and 1, where the settings leave that open. Then an evolution strategy (CMA-ES, of the package
    `cma`) varies how much each layer removes while all of them together keep the budget. It sees two of three
    samples; the others decide at the end whether its best setting, the middle of its last ones, or what it started
    from is returned. The model is left on that.

    It costs at most `max_settings` merged forwards of two thirds of the inputs, 18 of the last third, and one dense
    forward of all.

    Args:
        model (`torch.nn.Module`):
            A model with one encoder that merges, or a dense one, whose encoder then merges with the defaults. Its
            settings other than the budget stay; where they name `layers`, only those merge.
        batches (`Iterable[Mapping]`):
            Inputs of `model` as batches (with the batch dimension), on its device; about 100 samples that look like
            what the model is for. Of pictures, operations are counted at their size, unless the settings of the model
            name an `image_size`.
        flops_ratio (`float`, *optional*): so many times fewer operations than dense, as [`pitome_summary`] counts.
        num_tokens (`int`, *optional*): or so many tokens left of an image.
        speed_up (`float`, *optional*):
            Or so many times as fast as dense, measured on this machine with these inputs. Exactly one of the three.
            First [`find_budget`] finds how many operations that takes; the search then keeps to them.
        sequence_length (`int`, *optional*): of texts, for counting operations; the longest that the model reads.
        distance (`Callable`, *optional*):
            Of (merged outputs, dense outputs, inputs), one number per sample, `(batch_size,)`. By default, as in
            [`~analysis.loss.Samples.losses`], divergence of logits, or 1 - cosine of the first and of the mean token.
        timing (`Callable`, *optional*): measures a speed-up, see [`find_budget`].
        max_settings (`int`, *optional*, defaults to 100): how many settings are tried.
        seed (`int`, *optional*, defaults to 0): of the evolution strategy.
        resume_from (`str`, *optional*):
            A file that every setting is written to as it is tried (JSON lines). If it is there, what it holds is not
            tried again: an interrupted search goes on where it ended, and the budget of a speed-up is the one found
            before.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        [`PiToMeConfig`] with the list of ratios.

    Raises:
        ValueError: if the model does not have exactly one merging encoder, the budget is out of reach, or
            `resume_from` belongs to another search.
        ImportError: if `cma` is not installed.
    """
    limits = {"max_settings": max_settings, "seed": seed, "resume_from": resume_from, "progress": progress}
    budget = {"flops_ratio": flops_ratio, "num_tokens": num_tokens, "speed_up": speed_up}
    return search_ratios(model, batches, sequence_length, distance, timing, **budget, **limits).config


def import_cma() -> ModuleType:
    """The package of the evolution strategy.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import cma
    except ImportError:
        raise ImportError('Searching ratios needs the package cma: pip install "optimum_pitome[tune]"') from None
    return cma


def search_ratios(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    sequence_length: int | None = None,
    distance: Distance | None = None,
    timing: Callable[[nn.Module], Timing] | None = None,
    *,
    flops_ratio: float | None = None,
    num_tokens: int | None = None,
    speed_up: float | None = None,
    max_settings: int,
    seed: int,
    resume_from: str | os.PathLike | None,
    progress: bool,
    note: Callable[[str], None] = lambda text: None,
) -> Found:
    """[`tune_ratios`], with what else there is to say."""
    if sum(budget is not None for budget in (flops_ratio, num_tokens, speed_up)) != 1:
        raise ValueError(
            "Give flops_ratio (so many times fewer operations), num_tokens (so many left) or speed_up (so many times "
            "as fast), one of them."
        )
    batches, record, speed = checked(batches), SearchRecord(resume_from), {}
    with eval_mode(model), settings_kept(model):  # an error leaves the model as it was
        if speed_up is not None:
            speed_up, timing = check_speed_up(speed_up), timing or timing_of(batches)
            known = record.budget_of(speed_up)
            flops_ratio = known or _budget_of(model, batches, speed_up, sequence_length, timing, progress)
            speed = {"speed_up": speed_up, "flops_ratio": flops_ratio}
        space = SearchSpace(model, flops_ratio, num_tokens, sequence_length, batches)
        search = _Search(space, batches, distance, record, max_settings, progress)
        record.begin(search.identity(), **speed)
        if record.num_settings:
            note(f"Going on with {record.num_settings} settings from {resume_from}.")
        found = search.run(seed)
        if speed_up is not None:
            apply_pitome(model, found.config)
            found = replace(found, timing=record.timing_of(found.config, lambda: timing(model)))
    apply_pitome(model, found.config)
    return found


def _budget_of(
    model: nn.Module,
    batches: list[Mapping[str, Any]],
    speed_up: float,
    sequence_length: int | None,
    timing: Callable[[nn.Module], Timing],
    progress: bool,
) -> float:
    """How many times fewer operations a speed-up takes, at the length that the search counts at."""
    with settings_kept(model):
        find_speed(SearchSpace(model, 1.0, batches=batches), speed_up, timing, progress)
        return math.floor(1000 * pitome_summary(model, num_tokens=sequence_length).flops_ratio) / 1000


class _Search:
    def __init__(
        self,
        space: SearchSpace,
        batches: list[Mapping[str, Any]],
        distance: Distance | None,
        record: SearchRecord,
        max_settings: int,
        progress: bool,
    ):
        if max_settings < len(STARTS):
            raise ValueError(f"max_settings={max_settings}: expected at least {len(STARTS)}, the profiles alone.")
        seen, held = set_apart(batches, PARTS)
        if not held:
            raise ValueError(
                f"Too few inputs for a search: expected at least {PARTS}, of which one is kept for the decision."
            )
        self.space, self.record, self.max_settings = space, record, max_settings
        self.parts = {"seen": Samples(space.model, seen, distance), "held": Samples(space.model, held, distance)}
        self.num_samples = sum(map(len, self.parts.values()))
        self.progress = progress

    def identity(self) -> str:
        """What the losses of a setting follow from, but for the setting."""
        settings = {"settings": self.space.settings.to_pitome_dict(), "budget": str(self.space.budget)}
        text = json.dumps(settings, sort_keys=True) + " ".join(part.fingerprint() for part in self.parts.values())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def losses(self, config: PiToMeConfig, part: str) -> list[float]:
        """The loss of every sample of a part."""

        def measure() -> list[float]:
            apply_pitome(self.space.model, config)
            return self.parts[part].losses().tolist()

        return self.record.losses(config, part, measure)

    def mean(self, config: PiToMeConfig, *parts: str) -> float:
        """The mean loss over the samples of these parts: those `seen` by the evolution strategy, or `held` from it."""
        return statistics.fmean(loss for part in parts for loss in self.losses(config, part))

    def tried(self, config: PiToMeConfig) -> float:
        """The mean loss of one more setting over the samples that the search looks at."""
        self.count += 1
        self.bar.update()
        return self.mean(config, "seen")

    def _compare(self, spaces: Mapping[str, SearchSpace]) -> dict[str, PiToMeConfig]:
        """Tries the profiles of these names."""
        settings = {name: space.config(_ratios(name, space)) for name, space in spaces.items()}
        for config in settings.values():
            self.tried(config)
        return settings

    def _ranked(self, settings: Mapping[str, PiToMeConfig]) -> list[str]:
        """Their names, the best one first. All samples decide, since no settings were made for some of them."""
        return sorted(settings, key=lambda name: self.mean(settings[name], "seen", "held"))

    def run(self, seed: int) -> Found:
        cma = import_cma()
        self.count, about = 0, {"unit": " settings", "desc": str(self.space.budget)}
        self.bar = logging.tqdm(total=self.max_settings, disable=not self.progress, **about)
        spaces = dict.fromkeys(STARTS, self.space)
        settings = self._compare(spaces)
        others = {
            f"{name}, {means}": self.space.otherwise(changes)
            for name in self._ranked(settings)[:_WITH_MEANS]
            for means, changes in self.space.other_means.items()
        }
        room = self.max_settings - self.count - len(others)
        if room >= 0:
            settings |= self._compare(others)
        first = self._ranked(settings)[0]
        space, chosen = {**spaces, **others}[first], settings[first]
        options = {"seed": seed + 1, "verbose": -9, "CMA_stds": 1.0}
        strategy = cma.CMAEvolutionStrategy(space.point(_ratios(first, space)), _STEP, options)
        best, least = chosen, self.mean(chosen, "seen")
        stale, before = 0, least
        while self.count + strategy.popsize < self.max_settings and stale < _PATIENCE and not strategy.stop():
            points = strategy.ask()
            drawn = [space.at(point) for point in points]
            tried = [self.tried(config) for config in drawn]
            strategy.tell(points, tried)
            low = min(tried)
            stale, before = (0, low) if low < 0.99 * before else (stale + 1, before)
            if low < least:
                best, least = drawn[tried.index(low)], low
            self.bar.set_postfix(loss=f"{least:.5f}")
        candidates = [chosen]
        if best is not chosen:
            # The best draw was also lucky with the samples that it was chosen by. What all draws lie around was not.
            middle = space.at(strategy.mean)
            self.tried(middle)
            candidates += [best, middle]
        self.bar.close()
        loss, best = min(((self.mean(config, "held"), config) for config in candidates), key=lambda one: one[0])
        if strategy.countiter and best is chosen:
            logger.warning(
                f"On the samples that the evolution strategy did not see, no ratios that it drew lose less than "
                f"{first}, {loss:.4g}, so that is returned. More samples help."
            )
        held = {name: self.mean(config, "held") for name, config in settings.items()}
        held = dict(sorted(held.items(), key=lambda one: one[1]))
        missing = 0 if strategy.countiter else strategy.popsize + 1 - room
        counts = {"num_settings": self.count, "num_samples": self.num_samples, "num_missing": missing}
        stale, name = stale if stale == _PATIENCE else 0, self.parts["held"].loss_name
        return Found(best, loss, held, **counts, num_stale=stale, loss_name=name)


def _ratios(name: str, space: SearchSpace) -> list[float]:
    """Of one of `STARTS`, whose name may go on with other means."""
    return space.profile(STARTS[name.split(", ")[0]])
