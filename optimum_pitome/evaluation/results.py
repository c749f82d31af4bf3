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

"""[`Evaluation`]: what an evaluation found, and which models it still holds for."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ..analysis.timing import Timing


#: Of rewritten encoders: not of a language model behind them, which gains, too.
GFLOPS_TITLE = "encoder GFLOPs per sample"


@dataclass(frozen=True)
class Evaluation:
    """A model dense and merged, on the same samples. `print` shows the table.

    Attributes:
        dense, merged (`dict[str, float]`):
            metrics, and the ends of their 95 % intervals under `_low` and `_high`, as shares: `accuracy` of a
            classifier; `vqa_accuracy` of answers; `image_to_text_recall@1`, `text_to_image_recall@1`, 5 and 10.
        agreement (`dict[str, float]`): share of the answers that are the dense model's, with its interval.
        gflops_dense, gflops_merged (`float`):
            10**9 operations of the rewritten encoders per sample (multiply-add = 1), the mean over the samples at
            their own lengths; merged includes the merge step.
        timing ([`Timing`]):
            of the model's forward (of answers: `generate`) on one batch, without loading and preprocessing.
        num_samples, batch_size (`int`): what was evaluated.
        num_tokens (`list[int]`): the median sequence length of each rewritten encoder.
        hardware (`str`): device, dtype and threads of the timing.
        source (`dict[str, str]`): what the caller tells about it: `task`, `dataset`, `config`, `split`, `command`.
    """

    dense: dict[str, float]
    merged: dict[str, float]
    agreement: dict[str, float]
    gflops_dense: float
    gflops_merged: float
    timing: Timing
    num_samples: int
    num_tokens: list[int]
    batch_size: int
    hardware: str
    source: dict[str, str] = field(default_factory=dict)

    @property
    def flops_ratio(self) -> float:
        """How many times fewer operations the merged encoder needs."""
        return self.gflops_dense / self.gflops_merged

    @property
    def metrics(self) -> list[str]:
        """What `dense` and `merged` hold."""
        return [name for name in self.dense if f"{name}_low" in self.dense]

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: what, dense, merged."""
        return [
            *(
                (f"{metric_title(name)}, %", _percent(self.dense, name), _percent(self.merged, name))
                for name in self.metrics
            ),
            ("same answer as dense, %", "", _percent(self.agreement, "agreement")),
            (GFLOPS_TITLE, f"{self.gflops_dense:.4g}", f"{self.gflops_merged:.4g}"),
            (f"ms per batch of {self.batch_size}", f"{self.timing.dense_ms:.4g}", f"{self.timing.merged_ms:.4g}"),
        ]

    def gains(self) -> str:
        """Operations and measured speed in one sentence."""
        return (
            f"{self.flops_ratio:.2f}x fewer operations; measured {self.timing.speedup:.2f}x as fast "
            f"(quartiles {self.timing.speedup_low:.2f} to {self.timing.speedup_high:.2f}, batches: "
            f"{self.timing.rounds}, dense and merged alternating; {self.hardware})."
        )

    def __str__(self) -> str:
        lines = [f"{self.num_samples} samples; 95 % intervals in brackets"]
        row = "{:<27}  {:>20}  {:>20}"
        lines.append(row.format("", "dense", "merged").rstrip())
        lines.extend(row.format(*cells) for cells in self.rows())
        return "\n".join([*lines, self.gains()])


def metric_title(name: str) -> str:
    """How tables and cards call a metric."""
    return name.replace("_", " ").replace("vqa", "VQA")


def _percent(values: Mapping[str, float], name: str) -> str:
    value, low, high = (100 * values[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.2f} [{low:.1f}, {high:.1f}]"


_KNOWN: weakref.WeakKeyDictionary[nn.Module, list[tuple[str, Evaluation]]] = weakref.WeakKeyDictionary()


def remember(model: nn.Module, evaluation: Evaluation) -> None:
    """Keeps `evaluation` for the card of `model`."""
    state = _state(model)
    if state is not None:
        _KNOWN[model] = [*_KNOWN.get(model, []), (state, evaluation)]


def known_evaluations(model: nn.Module) -> list[Evaluation]:
    """The evaluations that hold for `model` as it is: neither weights nor settings have changed since."""
    state = _state(model)
    return [evaluation for then, evaluation in _KNOWN.get(model, []) if then == state]


def _state(model: nn.Module) -> str | None:
    try:
        # torch counts the writes to a tensor: an optimizer's step, load_state_dict, ...
        writes = [parameter._version for parameter in model.parameters()]
    except RuntimeError:  # made in inference mode: not counted
        return None
    return json.dumps([getattr(getattr(model, "config", None), "pitome", None), writes])
