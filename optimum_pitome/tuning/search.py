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
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers.utils import logging

from ..analysis.loss import Distance, Samples
from ..apply import apply_pitome, rewritten_encoders, settings_kept
from ..configuration.checks import BUDGETS
from ..configuration.config import PiToMeConfig
from ..merging import MergeSpec
from ..methods import profile_of
from ..modeling.budget import Budget, fit_path, flops_ratio, merging_layers
from ..modeling.operations import EncoderShape


logger = logging.get_logger(__name__)

#: How late the profiles merge that the search compares first: see [`~methods.profile_of`].
LATENESS = (0.0, 0.05, 0.1, 0.2, 0.4)
#: The search starts with steps of this size, in powers of e by which a layer removes more or less.
_STEP = 0.4
#: Generations without a gain of one percent after which it ends.
_PATIENCE = 4


def tune_ratios(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    flops_ratio: float | None = None,
    *,
    num_tokens: int | None = None,
    sequence_length: int | None = None,
    distance: Distance | None = None,
    max_settings: int = 100,
    seed: int = 0,
    resume_from: str | os.PathLike | None = None,
    progress: bool = True,
) -> PiToMeConfig:
    """Searches a ratio for every layer on a few inputs, without labels and without gradient.

    Compares profiles that merge more or less late, then lets an evolution strategy (CMA-ES, of the package `cma`) vary
    how much each layer removes while all of them together keep the budget. It sees every second sample; the others
    decide at the end whether its result or the best profile is returned. The model is left on what is returned.

    It costs at most `max_settings` merged forwards of all inputs, and one dense forward.

    Args:
        model (`torch.nn.Module`):
            A model with one encoder that merges, or a dense one, whose encoder then merges with the defaults. Its
            settings other than the budget stay; where they name `layers`, only those merge.
        batches (`Iterable[Mapping]`):
            Inputs of `model` as batches (with the batch dimension), on its device; about 100 samples that look like
            what the model is for.
        flops_ratio (`float`, *optional*): so many times fewer operations than dense, as [`pitome_summary`] counts.
        num_tokens (`int`, *optional*): or so many tokens left of an image. Exactly one of the two.
        sequence_length (`int`, *optional*): of texts, for counting operations; the longest that the model reads.
        distance (`Callable`, *optional*):
            Of (merged outputs, dense outputs, inputs), one number per sample: a tensor of shape `(batch_size,)`. By
            default that of [`~analysis.loss.Samples.losses`].
        max_settings (`int`, *optional*, defaults to 100): how many settings are tried.
        seed (`int`, *optional*, defaults to 0): of the evolution strategy.
        resume_from (`str`, *optional*):
            A file that every setting is written to as it is tried (JSON lines). If it is there, what it holds is not
            tried again: an interrupted search goes on where it ended.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        [`PiToMeConfig`] with the list of ratios.

    Raises:
        ValueError: if the model does not have exactly one merging encoder, the budget is out of reach, or
            `resume_from` belongs to another search.
        ImportError: if `cma` is not installed.
    """
    with settings_kept(model):  # an error leaves the model as it was
        training = model.training
        model.eval()
        try:
            space = SearchSpace(model, flops_ratio, num_tokens, sequence_length)
            search = _Search(space, Samples(model, batches, distance), resume_from, max_settings, progress)
            config = search.run(seed)
        finally:
            model.train(training)
    apply_pitome(model, config)
    return config


class SearchSpace:
    """The settings of a model that keep a budget: one number per merging layer says how much it removes, in
    proportion to the others.

    Args:
        target (`float`, *optional*): the `flops_ratio`.
        model, num_tokens, sequence_length: see [`tune_ratios`].
    """

    def __init__(
        self,
        model: nn.Module,
        target: float | None = None,
        num_tokens: int | None = None,
        sequence_length: int | None = None,
    ):
        if (target is None) == (num_tokens is None):
            raise ValueError(
                "Give flops_ratio (so many times fewer operations) or num_tokens (so many left), one of them."
            )
        given = {"flops_ratio": target} if num_tokens is None else {"num_tokens": num_tokens}
        self.budget = Budget(**given)
        PiToMeConfig(**given)  # what is no budget at all
        settings = PiToMeConfig.from_value(getattr(model.config, "pitome", None)) or PiToMeConfig()
        self.model, self.settings = model, settings
        apply_pitome(model, self.with_budget({"ratio": 0.5}))
        encoders = rewritten_encoders(model)
        if len(encoders) != 1:
            raise ValueError(
                f"This {type(model).__name__} has {len(encoders)} merging encoders, and a ratio per layer is for one. "
                "Rewrite one part of it at a time (PiToMeConfig.parts)."
            )
        (encoder,) = encoders
        architecture, count = encoder.pitome.architecture, len(encoder.pitome.specs)
        self.shape = EncoderShape.of(encoder, architecture, sequence_length, adapters=False)
        self.num_read = max(architecture.reads, default=count)
        apply_pitome(model, self.with_budget({"ratio": [0.5] * count}, layers=list(range(count))))
        self.specs: tuple[MergeSpec, ...] = encoder.pitome.specs
        self.layers = merging_layers(self.specs, self.num_read)

    def with_budget(self, budget: Mapping[str, Any], **defaults: Any) -> PiToMeConfig:
        """The settings of the model with another budget, in the part that has it."""

        def change(settings: Mapping[str, Any]) -> dict[str, Any]:
            kept = {name: value for name, value in settings.items() if name not in (*BUDGETS, "profile")}
            return {**defaults, **kept, **budget}

        fields = self.settings.to_pitome_dict()
        if "parts" in fields:
            fields["parts"] = {name: change(part) for name, part in fields["parts"].items()}
            return PiToMeConfig(**fields)
        return PiToMeConfig(**change(fields))

    def most(self) -> float:
        """The largest `flops_ratio` that can be asked for: half of the tokens gone in every layer."""
        return flops_ratio(self.shape, self.specs)

    def fit(self, removed: Callable[[int, float], float]) -> list[float]:
        """The ratios of all layers that keep the budget.

        Args:
            removed (`Callable[[int, float], float]`):
                From the number of a merging layer (from 0) and a strength to the fraction that it removes.
        """
        count = len(self.layers)
        specs = fit_path(
            self.shape,
            self.specs,
            lambda strength: [removed(number, strength) for number in range(count)],
            self.budget,
            self.num_read,
        )
        kept = [1 - spec.ratio.removed_numerator / spec.ratio.removed_denominator for spec in specs]
        return [round(ratio, 9) for ratio in kept]

    def profile(self, lateness: float) -> list[float]:
        """The ratios of a profile: see [`~methods.profile_of`]."""
        removed, count = profile_of(lateness), len(self.layers)
        return self.fit(lambda number, strength: removed((number + 1) / count, strength))

    def weighted(self, weights: Sequence[float]) -> list[float]:
        """The ratios where the merging layers remove in proportion to `weights`."""
        return self.fit(lambda number, strength: 0.5 if strength == 1 else weights[number] * strength / (1 - strength))

    def config(self, ratios: list[float]) -> PiToMeConfig:
        """The settings with `ratios`, one for each layer of the encoder."""
        merging = {index: ratio for index, ratio in enumerate(ratios) if ratio < 1}
        if not merging:
            return self.with_budget({"ratio": 1.0})
        return self.with_budget({"ratio": list(merging.values()), "layers": list(merging)})


class _Search:
    def __init__(
        self, space: SearchSpace, samples: Samples, path: str | os.PathLike | None, max_settings: int, progress: bool
    ):
        if max_settings < len(LATENESS):
            raise ValueError(f"max_settings={max_settings}: expected at least {len(LATENESS)}, the profiles alone.")
        self.space, self.samples, self.max_settings = space, samples, max_settings
        self.tried: dict[tuple[float, ...], torch.Tensor] = {}
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self._read()
        self.bar = tqdm(total=max_settings, disable=not progress, unit=" settings", desc=str(space.budget))

    def _identity(self) -> str:
        """What the losses of a setting follow from, but for the setting."""
        settings = {"settings": self.space.settings.to_pitome_dict(), "budget": str(self.space.budget)}
        found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for output in self.samples.dense:
            for tensor in output.to_tuple():
                if isinstance(tensor, torch.Tensor):  # rounded: they differ from run to run in the last digits
                    found.update(f"{tuple(tensor.shape)} {tensor.float().abs().mean().item():.3e}".encode())
        return found.hexdigest()[:16]

    def _read(self) -> None:
        identity = self._identity()
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"search": identity}) + "\n", encoding="utf-8")
            return
        first, *lines = self.path.read_text(encoding="utf-8").splitlines() or [""]
        if first != json.dumps({"search": identity}):
            raise ValueError(
                f"{self.path} belongs to another search: of another model, other inputs, settings or another budget. "
                "Name another file, or delete it."
            )
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # the last line of a search that was killed while it wrote
                break
            self.tried[tuple(entry["ratios"])] = torch.tensor(entry["losses"])

    def losses(self, ratios: list[float]) -> torch.Tensor:
        """The loss of every sample."""
        key = tuple(ratios)
        if key not in self.tried:
            apply_pitome(self.space.model, self.space.config(ratios))
            self.tried[key] = self.samples.losses().cpu()
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"ratios": ratios, "losses": self.tried[key].tolist()}) + "\n")
        self.count += 1
        self.bar.update()
        return self.tried[key]

    def seen(self, ratios: list[float]) -> float:
        """The mean loss over the samples that the search may look at."""
        return self.losses(ratios)[::2].mean().item()

    def run(self, seed: int) -> list[float]:
        try:
            import cma
        except ImportError:
            raise ImportError("Searching ratios needs the package cma: pip install optimum_pitome[tune]") from None
        self.count = 0
        profiles = [self.space.profile(lateness) for lateness in LATENESS]
        best = start = min(profiles, key=self.seen)
        strategy = cma.CMAEvolutionStrategy(
            self._logarithms(start), _STEP, {"seed": seed + 1, "verbose": -9, "CMA_stds": 1.0}
        )
        stale = 0
        while self.count + strategy.popsize <= self.max_settings and stale < _PATIENCE and not strategy.stop():
            points = strategy.ask()
            found = [self.space.weighted(torch.tensor(point).exp().tolist()) for point in points]
            losses = [self.seen(ratios) for ratios in found]
            strategy.tell(points, losses)
            low = min(losses)
            stale = 0 if low < 0.99 * self.seen_before(best) else stale + 1
            if low < self.seen_before(best):
                best = found[losses.index(low)]
            self.bar.set_postfix(loss=f"{self.seen_before(best):.5f}")
        self.bar.close()
        held = [self.tried[tuple(ratios)][1::2].mean().item() for ratios in (best, start)]
        if len(self.tried[tuple(start)]) > 1 and held[0] > held[1]:
            logger.warning(
                f"On the samples that the search did not see, its result loses {held[0]:.4f} and the best profile "
                f"{held[1]:.4f}: the profile is returned. More samples help."
            )
            best = start
        return self.space.config(best)

    def seen_before(self, ratios: list[float]) -> float:
        return self.tried[tuple(ratios)][::2].mean().item()

    def _logarithms(self, ratios: list[float]) -> list[float]:
        removed = torch.tensor([1 - ratios[index] for index in self.space.layers])
        return (removed / removed.mean()).clamp(min=0.02).log().tolist()
