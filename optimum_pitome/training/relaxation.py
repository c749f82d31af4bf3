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

"""[`RatioLearner`]: ratios per layer by gradient, through a relaxed choice between neighbouring ratios.

DiffRate (2305.17997) learns its rates through a choice among candidates. Here each layer has one number, its ratio.
The two grid points around it are both tried, and the layer's output is their mean, weighted by how near they are: the
derivative by the ratio is what merging a little less changes. For results of different lengths to have a mean, tokens
are merged in place: all members of a group get the group's vector. Attention over such copies is exactly attention
with log sizes over the merged tokens (section 3.2 of the paper): at a grid point this is the merging model itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..analysis.operations import Widths
from ..configuration import PiToMeConfig
from ..fields import MIN_RATIO
from ..merging import KeepRatio, MergePlan, MergeSpec, TokenMasks, gather_tokens, match_tokens, register_algorithm
from ..modeling.rewrite import apply_pitome, rewritten_encoders
from ..modeling.state import Tokens
from .budget import FlopsBudget


#: Distance of the ratios between which a layer is interpolated.
GRID = 0.05
_RELAXED = "relaxed"


@dataclass(frozen=True, eq=False)
class _RelaxedSpec(MergeSpec):
    """A layer's own settings, and the learner that holds its ratio."""

    own: MergeSpec | None = None
    learner: RatioLearner | None = None
    place: int = 0


@dataclass
class _RelaxedPlan(MergePlan):
    """Merges in place: as many tokens leave as came."""

    candidates: tuple[torch.Tensor, ...] = ()
    weights: torch.Tensor | None = None
    real: torch.Tensor | None = None

    def merge(self, hidden_states: torch.Tensor, weights=None, totals=None) -> torch.Tensor:
        mixed = 0.0
        for weight, groups in zip(self.weights, self.candidates):
            mixed = mixed + weight * _mean_in_place(hidden_states, groups, self.real)
        return mixed.to(hidden_states.dtype)

    def merge_sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(sizes)  # copies count themselves


def _mean_in_place(hidden_states: torch.Tensor, groups: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Every token as the mean of its group; `groups` `(B, N)` numbers them. Pads stay out of the means."""
    batch_size, num_tokens, dim = hidden_states.shape
    flat = (groups + num_tokens * torch.arange(batch_size, device=groups.device).unsqueeze(1)).flatten()
    weights = torch.ones_like(groups, dtype=torch.float32) if real is None else real.float()
    totals = torch.zeros(batch_size * num_tokens, dim, device=hidden_states.device)
    totals = totals.index_add(0, flat, (hidden_states.float() * weights.unsqueeze(-1)).flatten(0, 1))
    counts = torch.zeros(batch_size * num_tokens, device=hidden_states.device).index_add(0, flat, weights.flatten())
    means = (totals / counts.clamp(min=1.0).unsqueeze(-1)).index_select(0, flat).view_as(hidden_states)
    return means if real is None else torch.where(real.unsqueeze(-1), means, hidden_states.float())


class RatioLearner:
    """Learns the ratio of every merging layer under a budget of operations, while a model is trained or held fixed.

    ```python
    learner = RatioLearner(model, flops_ratio=1.8)
    for batch in loader:                # the loss may be any: the task's, or the distance to the dense model
        loss = model(**batch).loss
        loss.backward()
        learner.step()                  # beside optimizer.step(), if the weights are trained, too
    config = learner.finish()           # a plain list of ratios; the model merges for real again
    ```

    Until `finish`, the model computes at full length (nothing is saved), and only one forward may run at a time.

    Args:
        model (`torch.nn.Module`): a rewritten model with one merging encoder, not compiled.
        flops_ratio (`float`): how many times fewer operations than dense.
        num_tokens (`int`, *optional*): sequence length for counting; the configured one by default.
        learning_rate (`float`, *optional*, defaults to 0.02): of Adam, in units of the ratio.

    Raises:
        ValueError: if the model does not have exactly one merging encoder, or cannot reach `flops_ratio`.
    """

    def __init__(
        self, model: nn.Module, flops_ratio: float, *, num_tokens: int | None = None, learning_rate: float = 0.02
    ):
        self.budget = FlopsBudget(model, flops_ratio, num_tokens)
        self.model = model
        uniform = self.budget.uniform()
        apply_pitome(model, self.budget.config(uniform))
        (self.encoder,) = rewritten_encoders(model)
        self.rewrite = self.encoder.pitome
        device = next(model.parameters()).device
        start = torch.tensor(uniform, dtype=torch.float32, device=device)
        self.ratios = nn.Parameter(start)
        self.optimizer = torch.optim.Adam([self.ratios], lr=learning_rate)
        self._count = _SmoothCount(self.encoder, self.budget)
        self._target = self._count(start).item()
        self._tokens: list[Tokens | None] = [None] * (len(start) + 1)
        self.resume()

    def resume(self) -> None:
        """Relaxes the model (again)."""
        relaxed = list(self.rewrite.specs)
        for place, index in enumerate(self.budget.layers):
            own = self.rewrite.specs[index]
            settings = {name: value for name, value in vars(own).items() if name != "algorithm"}
            relaxed[index] = _RelaxedSpec(**settings, algorithm=_RELAXED, own=own, learner=self, place=place)
        self.encoder.pitome = replace(self.rewrite, specs=tuple(relaxed))

    def step(self) -> None:
        """Moves the ratios down the gradient that the backward passes since the last step left, within the budget."""
        gradient = self.ratios.grad
        if gradient is None:
            raise RuntimeError("RatioLearner.step() comes after loss.backward(), and the forward must merge.")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()
        cost = torch.autograd.grad(self._count(self.ratios), self.ratios)[0]
        # Along the budget only: how far across it, the projection below decides.
        gradient.sub_(cost * (gradient @ cost) / (cost @ cost))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._project()

    def finish(self) -> PiToMeConfig:
        """Ends the relaxation, for good or until `resume`: the model merges with the learned ratios."""
        removed = (1 - self.ratios.detach()).tolist()
        config = self.budget.config(self.budget.scaled(removed))
        apply_pitome(self.model, config)
        return config

    def state_dict(self) -> dict:
        """What a resumed run needs to go on exactly."""
        return {"ratios": self.ratios.detach().cpu(), "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Takes up a `state_dict`."""
        self.ratios.copy_(state["ratios"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _project(self) -> None:
        """The nearest ratios (by one shift for all) that cost what the budget says."""
        low, high = -0.5, 0.5
        for _ in range(30):
            shift = (low + high) / 2
            shifted = (self.ratios + shift).clamp(MIN_RATIO, 1.0)
            low, high = (low, shift) if self._count(shifted) > self._target else (shift, high)
        self.ratios.copy_((self.ratios + low).clamp(MIN_RATIO, 1.0))

    def match(self, features: torch.Tensor, spec: _RelaxedSpec, masks: TokenMasks) -> _RelaxedPlan:
        """The plan of one layer. The tokens that are left so far are those of the real model at the present ratios."""
        place, num_tokens = spec.place, features.shape[1]
        position = torch.arange(num_tokens, device=features.device).expand(features.shape[0], -1)
        tokens = self._tokens[place] if place else None
        if tokens is None:
            tokens = Tokens(
                sizes=torch.ones(position.shape, device=features.device),
                valid=masks.valid,
                special=masks.special,
                assignment=position,
                positions=position,
                track_positions=True,
                num_prefix_tokens=masks.num_prefix_tokens,
                max_special=masks.max_special,
                protected=masks.protected,
            )
        left = gather_tokens(features, tokens.positions)
        ratio = round(self.ratios[place].item(), 6)
        lower = min(math.floor(ratio / GRID + 1e-6) * GRID, 1.0 - GRID)
        candidates = []
        attention = None
        if masks.attention is not None:
            # Here every original token is attended to; a group gets what its members get.
            nothing = torch.zeros_like(tokens.sizes, dtype=masks.attention.dtype)
            attention = nothing.scatter_add(1, tokens.assignment, masks.attention)
        for candidate in (lower, lower + GRID):
            plan = self._plan(left, spec, candidate, tokens, attention)
            candidates.append(position if candidate > 1 - 1e-6 else self._groups(plan, tokens))
        plan = self._plan(left, spec, ratio, tokens, attention)
        self._tokens[place + 1] = tokens if plan is None else tokens.merged(plan)
        with torch.enable_grad():
            upper = (self.ratios[place] - lower) / GRID
            weights = torch.stack([1 - upper, upper])
        return _RelaxedPlan(
            kept=position,
            source=position[:, :0],
            destination=position[:, :0],
            assignment=position,
            valid=masks.valid,
            candidates=tuple(candidates),
            weights=weights,
            real=masks.valid,
        )

    def _plan(self, features, spec: _RelaxedSpec, ratio: float, tokens: Tokens, attention) -> MergePlan | None:
        spec = replace(spec.own, ratio=KeepRatio.from_float(min(ratio, 1.0), spec.own.ratio.min_tokens))
        return match_tokens(features, spec, tokens.masks(attention))

    def _groups(self, plan: MergePlan | None, tokens: Tokens) -> torch.Tensor:
        return tokens.assignment if plan is None else plan.assignment.gather(1, tokens.assignment)


@register_algorithm(_RELAXED)
def match_relaxed(features: torch.Tensor, spec: _RelaxedSpec, masks: TokenMasks) -> MergePlan:
    """Of the layers that a [`RatioLearner`] holds."""
    return spec.learner.match(features, spec, masks)


class _SmoothCount:
    """Operations as a smooth function of the ratios: the exact count of the summary, token counts not rounded."""

    def __init__(self, encoder: nn.Module, budget: FlopsBudget):
        rewrite = encoder.pitome
        layers = rewrite.architecture.find_layers(encoder)
        self.widths = [Widths.of(layer, rewrite.architecture, encoder.config) for layer in layers]
        self.merging = {index: place for place, index in enumerate(budget.layers)}
        self.prefix = rewrite.num_prefix_tokens
        self.num_tokens = budget.num_tokens or rewrite.architecture.num_tokens(encoder.config)

    def __call__(self, ratios: torch.Tensor) -> torch.Tensor:
        tokens, total = torch.tensor(float(self.num_tokens), device=ratios.device), 0.0
        for index, widths in enumerate(self.widths):
            behind = tokens
            if index in self.merging:
                behind = self.prefix + (tokens - self.prefix) * ratios[self.merging[index]]
            total = total + widths.operations(tokens, behind) / 1e9
            tokens = behind
        return total
