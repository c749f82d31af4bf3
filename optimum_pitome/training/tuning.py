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

"""[`tune_ratios`]: the ratios per layer that keep a model closest to its dense self, under a number of operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers.utils import logging

from ..apply import apply_pitome, pitome_disabled
from ..configuration.config import PiToMeConfig
from ..configuration.fields import MIN_RATIO
from .budget import FlopsBudget


logger = logging.get_logger(__name__)

#: Of the linear profiles that the search starts from: how much more (or less) the last layer removes than the mean.
SLOPES = (-1.0, -0.5, 0.5, 1.0)
#: Sizes of the steps of the search, in fractions of the tokens.
STEPS = (0.06, 0.03)

Distance = Callable[[Any, Any, Mapping[str, Any]], torch.Tensor]


@torch.no_grad()
def tune_ratios(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    flops_ratio: float,
    *,
    num_tokens: int | None = None,
    distance: Distance | None = None,
    max_sweeps: int = 1,
    progress: bool = True,
) -> PiToMeConfig:
    """Searches a ratio for every merging layer on a few calibration batches, without labels and without gradient.

    Starts from the uniform ratio, tries linear profiles over the depth, then moves one layer at a time up or down
    while the others make up for it. What brings the merged outputs closer to the dense ones is kept if it does so by
    more than chance: by twice the standard error of the mean gain over the samples. (Otherwise a few samples would be
    fitted where nothing is to be gained.) The model is left on the result.

    Args:
        model (`torch.nn.Module`): a rewritten model. Its other settings stay.
        batches (`Iterable[Mapping]`): inputs of `model` as batches (with the batch dimension); about 64 samples.
        flops_ratio (`float`): how many times fewer operations than dense, as [`pitome_summary`] counts.
        num_tokens (`int`, *optional*): sequence length for counting; the configured one by default.
        distance (`Callable`, *optional*):
            Of (merged outputs, dense outputs, inputs), one number per sample; [`feature_distance`] by default.
        max_sweeps (`int`, *optional*, defaults to 1): passes over the layers for each size of step.
        progress (`bool`, *optional*): whether to show a progress bar.

    Returns:
        [`PiToMeConfig`] with the list of ratios.

    Raises:
        ValueError: if the model does not have exactly one merging encoder, or cannot reach `flops_ratio`.
    """
    before = PiToMeConfig.from_value(getattr(getattr(model, "config", None), "pitome", None))
    training = model.training
    model.eval()
    try:
        budget = FlopsBudget(model, flops_ratio, num_tokens)
        batches = list(batches)
        if not all(isinstance(batch, Mapping) for batch in batches):
            raise ValueError("A calibration batch is a mapping of model inputs, such as {'pixel_values': tensor}.")
        search = _Search(budget, [dict(batch) for batch in batches], distance or feature_distance, progress)
        ratios = search.run(max_sweeps)
    except BaseException:
        if before is not None:
            apply_pitome(model, before)
        raise
    finally:
        model.train(training)
    config = budget.config(ratios)
    apply_pitome(model, config)
    return config


class _Search:
    def __init__(self, budget: FlopsBudget, batches: list[dict], distance: Distance, progress: bool):
        if not batches:
            raise ValueError("No calibration batches: pass at least one mapping of model inputs.")
        self.budget, self.batches, self.distance = budget, batches, distance
        with pitome_disabled(budget.model):
            self.dense = [budget.model(**batch) for batch in batches]
        self.found: dict[tuple[float, ...], torch.Tensor] = {}
        self.bar = tqdm(disable=not progress, unit=" settings")

    def scores(self, ratios: list[float]) -> torch.Tensor:
        """The distance of every sample."""
        key = tuple(round(ratio, 4) for ratio in ratios)
        if key not in self.found:
            apply_pitome(self.budget.model, self.budget.config(ratios))
            found = [
                self.distance(self.budget.model(**batch), dense, batch)
                for batch, dense in zip(self.batches, self.dense)
            ]
            self.found[key] = torch.cat(found)
            self.bar.update()
        return self.found[key]

    def better(self, ratios: list[float], others: list[list[float]]) -> list[float]:
        """The best of `others` if it is closer to dense by more than chance, else `ratios`."""
        best = min([ratios, *others], key=lambda candidate: self.scores(candidate).mean().item())
        gain = self.scores(ratios) - self.scores(best)
        if gain.mean() <= 2 * gain.std() / math.sqrt(len(gain)):
            return ratios
        self.bar.set_postfix(distance=f"{self.scores(best).mean().item():.4f}")
        return best

    def run(self, max_sweeps: int) -> list[float]:
        count = len(self.budget.layers)
        depth = [2 * index / max(count - 1, 1) - 1 for index in range(count)]
        best = self.better(
            self.budget.uniform(), [self.budget.scaled([1 + slope * place for place in depth]) for slope in SLOPES]
        )
        for step in STEPS:
            for _ in range(max_sweeps):
                start = best
                for index in range(count):
                    best = self.better(best, self._moves(best, index, step))
                if best is start:
                    break
        self.bar.close()
        return best

    def _moves(self, ratios: list[float], index: int, step: float) -> list[list[float]]:
        moves = []
        for change in (-step, step):
            removed = [1 - ratio for ratio in ratios]
            removed[index] = min(max(removed[index] + change, 0.0), 1 - MIN_RATIO)
            moved = self.budget.scaled(removed, keep=index)
            # Alone, a layer may not reach the budget, whatever the others do.
            if self.budget.ratio_of(moved) >= self.budget.flops_ratio:
                moves.append(moved)
        return moves


def feature_distance(merged: Any, dense: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """How far merged outputs are from dense ones: of logits, the Kullback-Leibler divergence; else 1 - cosine of the
    first token and of the mean token of `last_hidden_state`, the batch's mean feature taken out.

    Args:
        merged, dense (`ModelOutput`): outputs for the same `inputs`.

    Returns:
        `torch.FloatTensor` of shape `(batch_size,)`.
    """
    if dense.get("logits") is not None:
        student, teacher = (output.logits.float().log_softmax(dim=-1) for output in (merged, dense))
        divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
        return divergence.flatten(1).mean(dim=1) if divergence.dim() > 1 else divergence
    distances = []
    for student, teacher in zip(_pooled(merged, inputs), _pooled(dense, inputs)):
        centre = teacher.mean(dim=0)
        distances.append(1 - functional.cosine_similarity(student - centre, teacher - centre, dim=-1))
    return torch.stack(distances).mean(dim=0)


def _pooled(output: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    hidden_states = output.last_hidden_state.float()
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != hidden_states.shape[:2]:
        return hidden_states[:, 0], hidden_states.mean(dim=1)
    weights = mask.unsqueeze(-1).to(hidden_states.dtype)
    return hidden_states[:, 0], (hidden_states * weights).sum(dim=1) / weights.sum(dim=1)
