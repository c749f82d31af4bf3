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

"""The settings of a model among which a search chooses: those that keep a budget."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..apply import apply_pitome, rewritten_encoders
from ..configuration.checks import BUDGETS
from ..configuration.config import PiToMeConfig
from ..merging import MergeSpec
from ..methods import ALGORITHMS, SHORTENING, in_proportion
from ..modeling.budget import fit_path, flops_ratio, merging_layers
from ..modeling.operations import EncoderShape
from ..modeling.parts import settings_of
from ..modeling.pictures import picture_size_of, with_picture_size
from ..modeling.resolve import budget_of


#: What weighs in the means of the defaults → what may lose less.
_OTHER_WEIGHTS = {"sizes": "attention", "attention": "sizes"}


class SearchSpace:
    """The settings of a model that keep a budget: one number per merging layer says how much it removes, in
    proportion to the others, and another one its importance, where the model has one that the user left open.

    Attributes:
        other_means (`dict[str, dict]`): what to try besides ratios, by what it does: settings that the user left open.

    Args:
        target (`float`, *optional*): the `flops_ratio`.
        model, num_tokens, sequence_length: see [`tune_ratios`].
        batches (`Sequence[Mapping]`): inputs of the model. The budget is for pictures of their size.
    """

    def __init__(
        self,
        model: nn.Module,
        target: float | None = None,
        num_tokens: int | None = None,
        sequence_length: int | None = None,
        batches: Sequence[Mapping[str, Any]] = (),
    ):
        if (target is None) == (num_tokens is None):
            raise ValueError(
                "Give flops_ratio (so many times fewer operations) or num_tokens (so many left), one of them."
            )
        given = {"flops_ratio": target} if num_tokens is None else {"num_tokens": num_tokens}
        PiToMeConfig(**given)  # what is no budget at all
        settings = settings_of(model) or PiToMeConfig()
        size = picture_size_of(batches)
        size = with_picture_size(model, _replaced(settings, given), size, local_files_only=True).image_size
        settings = PiToMeConfig(**{**settings.to_pitome_dict(), "image_size": size})
        self.model, self.settings = model, settings
        apply_pitome(model, self.with_budget({"flops_ratio": 1.0}))  # which encoders merge, and how
        encoders = rewritten_encoders(model)
        if len(encoders) != 1:
            raise ValueError(
                f"This {type(model).__name__} has {len(encoders)} merging encoders, and a ratio per layer is for one. "
                "Rewrite one part of it at a time (PiToMeConfig.parts)."
            )
        (encoder,) = encoders
        architecture, count = encoder.pitome.architecture, len(encoder.pitome.specs)
        self.budget = budget_of(architecture, target, num_tokens)
        self.shape = EncoderShape.of(
            encoder, architecture, sequence_length, encoder.pitome.config.image_size, adapters=False
        )
        self.num_read = max(architecture.reads, default=count)
        with_a_budget, chosen = encoder.pitome.specs[0], encoder.pitome.config
        everywhere = {"layers": list(range(count))}
        apply_pitome(model, self.with_budget({"ratio": [0.5] * count}, **everywhere))
        # Texts have other defaults with a budget than with ratios. A search starts from the former.
        self.usual = {
            name: value
            for name in ("algorithm", "importance", "weighted_by")
            if (value := getattr(with_a_budget, name)) != getattr(encoder.pitome.specs[0], name)
        }
        apply_pitome(model, self.with_budget({"ratio": [0.5] * count}, **everywhere, **self.usual))
        self.specs: tuple[MergeSpec, ...] = encoder.pitome.specs
        self.layers = merging_layers(self.specs, self.num_read)
        #: The importance of every merging layer; empty where it is not searched.
        self.importance = [self.specs[index].importance for index in self.layers] if chosen.importance is None else []
        if not all(self.importance):
            self.importance = []
        first = self.specs[0]
        algorithm, is_open = ALGORITHMS[first.algorithm], chosen.preset is None
        weights, kept = {}, {}
        if is_open and chosen.weighted_by is None and first.reads_attention and algorithm.takes_means:
            other = _OTHER_WEIGHTS[first.weighted_by]
            weights[f"weighted by {other}"] = {"weighted_by": other}
        if is_open and chosen.keep_norm is None and algorithm.combine in SHORTENING:
            kept = {"half of the norm kept": {"keep_norm": 0.5}, "all of the norm kept": {"keep_norm": 1.0}}
        both = {f"{name}, {also}": weights[name] | kept[also] for name in weights for also in kept}
        self.other_means = weights | kept | both

    def otherwise(self, means: Mapping[str, Any]) -> SearchSpace:
        """The same budget with one of `other_means`."""
        space = copy.copy(self)
        space.usual, space.specs = self.usual | means, tuple(replace(spec, **means) for spec in self.specs)
        return space

    def with_budget(self, budget: Mapping[str, Any], **defaults: Any) -> PiToMeConfig:
        """The settings of the model with another budget, in the part that has it."""

        return _replaced(self.settings, budget, **defaults)

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
        return [spec.ratio.kept for spec in specs]

    def profile(self, removed: Callable[[float, float], float]) -> list[float]:
        """The ratios of a profile: `removed` is that of a [`~methods.Profile`]."""
        count = len(self.layers)
        return self.fit(lambda number, strength: removed((number + 1) / count, strength))

    def weighted(self, weights: Sequence[float]) -> list[float]:
        """The ratios where the merging layers remove in proportion to `weights`."""
        return self.fit(lambda number, strength: in_proportion(weights[number], strength))

    def at(self, point: Sequence[float]) -> PiToMeConfig:
        """The settings at a point of the search: the logarithm of what each merging layer removes, relative to the
        others, and the log odds of its importance."""
        values, count = torch.tensor(point, dtype=torch.float64), len(self.layers)
        importance = values[count:].sigmoid().mul(1000).round().div(1000).tolist()
        return self.config(self.weighted(values[:count].exp().tolist()), importance)

    def point(self, ratios: list[float]) -> list[float]:
        """The point of the search at which these ratios are, with the importance that the model has."""
        removed = torch.tensor([1 - ratios[index] for index in self.layers])
        importance = torch.tensor(self.importance).logit()
        return [*(removed / removed.mean()).clamp(min=0.02).log().tolist(), *importance.tolist()]

    def config(self, ratios: list[float], importance: Sequence[float] = ()) -> PiToMeConfig:
        """The settings with `ratios`, one for each layer of the encoder, and the importance of each merging layer."""
        merging = {index: ratio for index, ratio in enumerate(ratios) if ratio < 1}
        if not merging:
            return self.with_budget({"ratio": 1.0})
        budget = {"ratio": list(merging.values()), "layers": list(merging)}
        if importance:
            budget["importance"] = [value for index, value in zip(self.layers, importance) if index in merging]
        return self.with_budget(budget, **self.usual)


def _replaced(settings: PiToMeConfig, budget: Mapping[str, Any], **defaults: Any) -> PiToMeConfig:
    """`settings` with another budget, in the part that has it."""

    def change(settings: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in settings.items() if name not in (*BUDGETS, "profile")}
        return {**defaults, **kept, **budget}

    fields = settings.to_pitome_dict()
    if "parts" in fields:
        fields["parts"] = {name: change(part) for name, part in fields["parts"].items()}
        return PiToMeConfig(**fields)
    return PiToMeConfig(**change(fields))
