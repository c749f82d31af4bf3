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

"""[`Row`]: what was measured of one combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..analysis.timing import Timing
from .combinations import Combination


@dataclass(frozen=True)
class Row:
    """
    Attributes:
        combination ([`Combination`]): what it is about.
        model_class (`str`), tokens (`list[int]`): of the model, and before each layer of its first rewritten encoder.
        dense_ms, merged_ms (`float`): medians, in milliseconds.
        speedup, speedup_low, speedup_high (`float`), rounds (`int`): see [`~analysis.timing.Timing`].
        flops_ratio (`float`): times fewer operations in the rewritten encoders, as budgets count.
        gflops_dense, gflops_merged (`float`): 10**9 multiply-adds per sample, of the whole model.
        merge_share (`float`, *optional*): matching and merging, as a share of the merged time.
        peak_dense, peak_merged (`int`, *optional*): bytes that tensors took at once, weights and inputs not counted.
        loss_merging, loss_dense, loss_merged, loss_both (`float`, *optional*):
            Mean of 1 - cosine on the inputs of the benchmark. Merging: merged against dense, in PyTorch without int8.
            Dense, merged: of the runtime (and int8) against the same model in PyTorch. Both: merged in the runtime
            against dense in PyTorch.
        error (`str`, *optional*): why there are no numbers.
    """

    combination: Combination
    model_class: str | None = None
    tokens: Sequence[int] | None = None
    dense_ms: float | None = None
    merged_ms: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    rounds: int | None = None
    flops_ratio: float | None = None
    gflops_dense: float | None = None
    gflops_merged: float | None = None
    merge_share: float | None = None
    peak_dense: int | None = None
    peak_merged: int | None = None
    loss_merging: float | None = None
    loss_dense: float | None = None
    loss_merged: float | None = None
    loss_both: float | None = None
    error: str | None = None

    @classmethod
    def of(
        cls,
        combination: Combination,
        timing: Timing,
        operations: tuple[float, float],
        flops_ratio: float,
        model_class: str,
        tokens: Sequence[int],
    ) -> Row:
        return cls(
            combination,
            model_class,
            tuple(tokens),
            **asdict(timing),
            flops_ratio=flops_ratio,
            gflops_dense=operations[0],
            gflops_merged=operations[1],
        )

    @property
    def operations_ratio(self) -> float | None:
        """How many times fewer operations the whole model takes."""
        return None if self.error else self.gflops_dense / self.gflops_merged

    @property
    def realised(self) -> tuple[float, float, float] | None:
        """The speed-up over the ratio of operations: the median, and its quartiles."""
        if self.error:
            return None
        ratio = self.operations_ratio
        return self.speedup / ratio, self.speedup_low / ratio, self.speedup_high / ratio

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with what follows from the rest."""
        found = asdict(self)
        found |= {"operations_ratio": self.operations_ratio}
        names = ("realised", "realised_low", "realised_high")
        return found | dict(zip(names, self.realised or (None, None, None)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of [`~Row.to_dict`]; other entries are ignored."""
        values = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(**{**values, "combination": Combination(**data["combination"])})
