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

"""The settings of one layer."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

import torch

from ..methods import ALGORITHMS, COMBINATIONS
from .counts import KeepRatio


@dataclass(frozen=True)
class MergeSpec:
    """What one layer does. Resolved from the user's configuration and the architecture before any forward runs.

    Attributes:
        ratio (`KeepRatio`): fraction of the mergeable tokens that stay.
        algorithm (`str`): key of `ALGORITHMS`.
        energy (`str`): key of `ENERGIES`.
        metric (`str`): `"keys"` (mean over the heads) or `"hidden_states"` (after attention).
        margin, alpha (`float`): parameters of the energy.
        importance (`float`): exponent of the class token's attention in the similarity; 0 leaves it out.
        proportional_attention (`bool`): whether attention adds the log size of the keys.
        weighted_by (`str`):
            A token's weight in a mean: its size (`"sizes"`), what the class token pays to it (`"attention"`), or 1
            (`"nothing"`).
        keep_norm (`float`): how much of the length that a mean loses comes back, 0 to 1. See [`~combine.keep_norm`].
        random_seed (`int`): of what an algorithm leaves to chance.
        after (`str`): where in the layer tokens merge: after its `"attention"`, or after the whole `"layer"`.
        combine (`str`, *optional*):
            How the tokens of a group become one, one of `COMBINATIONS`. By default what the algorithm does in a model
            of one layer.
    """

    ratio: KeepRatio
    algorithm: str = "pitome"
    energy: str = "nearest"
    metric: str = "keys"
    margin: float = 0.9
    alpha: float = 1.0
    importance: float = 0.0
    proportional_attention: bool = True
    weighted_by: str = "sizes"
    keep_norm: float = 0.0
    random_seed: int = 0
    after: str = "attention"
    combine: str | None = None
    #: All of it: what tells settings apart in a comparison.
    text: str = field(init=False, repr=False, compare=False)
    #: The same in two parts, as arguments of an operator in graphs that layers and settings share: what decides which
    #: graph it is (compilers take a string for a constant, and may not take a number so),
    #: and on the CPU, in float64, the numbers that a graph only hands on.
    kind: str = field(init=False, repr=False, compare=False)
    numbers: torch.Tensor = field(init=False, repr=False, compare=False)
    #: Whether nothing is ever removed (ratio 1), and whether the layer needs the class token's attention.
    is_dense: bool = field(init=False, repr=False, compare=False)
    reads_attention: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.combine is None:
            object.__setattr__(self, "combine", ALGORITHMS[self.algorithm].combine_in(0, 1))
        if self.combine not in COMBINATIONS:
            raise ValueError(
                f"combine={self.combine!r} of algorithm={self.algorithm!r} is not known. Accepted: "
                f"{', '.join(COMBINATIONS)}."
            )
        settings = vars(self).copy()
        object.__setattr__(self, "text", _as_text(*settings.items()))
        object.__setattr__(self, "is_dense", self.ratio.is_dense)
        reads_attention = self.importance > 0.0 or self.weighted_by == "attention"
        reads_attention = reads_attention or ALGORITHMS[self.algorithm].reads_attention
        object.__setattr__(self, "reads_attention", reads_attention)
        ratio, *numbers = (settings.pop(name) for name in _NUMBERS)
        object.__setattr__(self, "kind", _as_text(*settings.items()))
        numbers = torch.tensor([*vars(ratio).values(), *numbers], dtype=torch.float64, device="cpu")
        object.__setattr__(self, "numbers", numbers)

    @staticmethod
    def from_parts(kind: str, numbers: torch.Tensor) -> MergeSpec:
        """What has these `kind` and `numbers`."""
        return _from_parts(kind, *numbers.tolist())


#: Settings that are numbers. No shape depends on them but the lengths, which graphs with that operator do not know.
_NUMBERS = ("ratio", "margin", "alpha", "importance", "random_seed")


@functools.lru_cache(maxsize=4096)
def _from_parts(kind: str, *numbers: float) -> MergeSpec:
    *ratio, margin, alpha, importance, seed = numbers
    settings = {"margin": margin, "alpha": alpha, "importance": importance, "random_seed": int(seed)}
    return MergeSpec(KeepRatio(*map(int, ratio)), **settings, **json.loads(kind))


@functools.lru_cache(maxsize=4096)
def _as_text(*fields: tuple[str, Any]) -> str:
    return json.dumps(dict(fields), default=vars)
