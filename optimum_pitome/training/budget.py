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

"""What a ratio per layer costs: operations, their gradient, and the way back to a budget."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..analysis import pitome_summary
from ..apply import EncoderRewrite, apply_pitome, rewritten_encoders
from ..configuration.config import PiToMeConfig
from ..configuration.fields import MIN_RATIO


class FlopsBudget:
    """The ratios of one encoder under a number of operations.

    Args:
        model (`torch.nn.Module`): a rewritten model with one merging encoder. Its settings are the starting point; all
            but the ratios stay.
        flops_ratio (`float`): how many times fewer operations than dense, as [`pitome_summary`] counts.
        num_tokens (`int`, *optional*): sequence length; the configured one by default.

    Raises:
        ValueError: if the model does not have exactly one merging encoder, or no ratios reach the budget.
    """

    def __init__(self, model: nn.Module, flops_ratio: float, num_tokens: int | None = None):
        encoders = rewritten_encoders(model)
        if len(encoders) != 1:
            raise ValueError(
                f"This {type(model).__name__} has {len(encoders)} merging encoders, and a ratio per layer is for one. "
                "Rewrite the model first (apply_pitome), and one part of it at a time (PiToMeConfig.parts)."
            )
        self.model, self.num_tokens, self.flops_ratio = model, num_tokens, flops_ratio
        self.settings = PiToMeConfig.from_value(model.config.pitome)
        rewrite: EncoderRewrite = encoders[0].pitome
        self.num_layers = len(rewrite.specs)
        #: The layers whose ratio may change.
        self.layers = [index for index, spec in enumerate(rewrite.specs) if not spec.ratio.is_dense]
        if not self.layers:
            raise ValueError("No layer of the model merges (ratio 1.0). Start from settings that merge, such as 0.9.")
        self._cache: dict[tuple, float] = {}
        if isinstance(flops_ratio, bool) or not isinstance(flops_ratio, (int, float)):
            raise ValueError(f"flops_ratio={flops_ratio!r}: expected how many times fewer operations, such as 1.5.")
        most = self.ratio_of([MIN_RATIO] * len(self.layers))
        if not 1 < flops_ratio <= most:
            raise ValueError(
                f"flops_ratio={flops_ratio:g} is out of reach: with these layers, at this length, it lies above 1 "
                f"(dense) and goes up to {most:.2f} (half of the tokens gone in every layer)."
            )

    def config(self, ratios: list[float]) -> PiToMeConfig:
        """The settings with `ratios`, one for each of `layers`."""
        ratio = [round(min(max(float(ratio), MIN_RATIO), 1.0), 4) for ratio in ratios]
        fields = self.settings.to_pitome_dict()
        change = {"ratio": ratio, "layers": self.layers if len(self.layers) < self.num_layers else None}
        if "parts" in fields:
            (name, part), *_ = fields["parts"].items()
            return PiToMeConfig(**{**fields, "parts": {name: {**part, **change}}})
        return PiToMeConfig(**{**fields, **change})

    def ratio_of(self, ratios: list[float]) -> float:
        """How many times fewer operations than dense; leaves the model on `ratios`."""
        config = self.config(ratios)
        apply_pitome(self.model, config)
        key = repr(config.to_pitome_dict())
        if key not in self._cache:
            self._cache[key] = pitome_summary(self.model, self.num_tokens).flops_ratio
        return self._cache[key]

    def fit(self, ratios_at: Callable[[float], list[float]]) -> list[float]:
        """The ratios nearest to the budget that stay within it, on a path from 0 (dense) to 1 (as few as can be).

        Args:
            ratios_at (`Callable[[float], list[float]]`): the path; operations fall along it.
        """
        low, high = 0.0, 1.0
        for _ in range(14):
            middle = (low + high) / 2
            if self.ratio_of(ratios_at(middle)) < self.flops_ratio:
                low = middle
            else:
                high = middle
        return ratios_at(high)

    def uniform(self) -> list[float]:
        """The same ratio in every layer."""
        return self.scaled([1.0] * len(self.layers))

    def scaled(self, removed: list[float], keep: int | None = None) -> list[float]:
        """Ratios whose removed fractions are in the proportion of `removed`; entry `keep` of it stays as it is."""
        largest = max([value for index, value in enumerate(removed) if index != keep], default=0.0)
        factor = (1 - MIN_RATIO) / max(largest, 1e-6)

        def ratios_at(position: float) -> list[float]:
            # Beyond the proportion (the largest at its limit) the others grow on, so that every budget is reached.
            grown = [
                value if index == keep else value * factor * min(2 * position, 1.0)
                for index, value in enumerate(removed)
            ]
            rest = max(2 * position - 1.0, 0.0)
            return [
                1 - (value if index == keep else value + (1 - MIN_RATIO - value) * rest)
                for index, value in enumerate(grown)
            ]

        return self.fit(ratios_at)
