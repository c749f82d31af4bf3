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

"""[`Evaluation`]: what merging keeps at one of the settings; [`Evaluations`]: the table, the JSON and the plot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..analysis.pictures import plotted
from ..analysis.plain import Plain
from ..analysis.report import milliseconds, whole_table, wrapped
from ..analysis.timing import Timing


#: Of rewritten encoders: not of a language model after them, which gains, too.
GFLOPS_TITLE = "encoder GFLOPs per sample"


@dataclass(frozen=True)
class Evaluation:
    """A model dense and merged at one of the settings, on the same samples. What is called merged may run in another
    runtime, or with int8 weights, and may then merge nothing; what is called dense is the model in PyTorch.

    Attributes:
        name (`str`): what tables call the settings.
        settings (`dict`): as `pitome=` takes them; empty where nothing merges.
        dense, merged (`dict[str, float]`):
            metrics, and the ends of their 95 % intervals under `_low` and `_high`, as shares: `accuracy` of a
            classifier; `vqa_accuracy` of answers; `image_to_text_recall@1`, `text_to_image_recall@1`, 5 and 10.
        difference (`dict[str, float]`):
            of every metric, merged minus dense on the same samples; its interval is that of the paired differences.
        agreement (`dict[str, float]`): share of the answers that are the dense model's, with its interval.
        agreement_title (`str`): what tables call that.
        kept (`dict[str, float]`): what else of the dense model is kept: of embeddings, see [`EmbeddingJudge`].
        gflops_dense, gflops_merged (`float`):
            10**9 operations of the rewritten encoders per sample (multiply-add = 1), the mean over the samples at
            their own lengths; merged includes the merge step.
        timing ([`Timing`]):
            of the model's forward (of answers: `generate`) on one batch, without loading and preprocessing.
        num_samples, batch_size (`int`): what was evaluated.
        num_tokens, tokens_left (`list[int]`):
            the median sequence length of each rewritten encoder, and what is left of it after the last layer.
        hardware (`str`): device, dtype and threads of the timing.
        runtime (`str`): where the merged model ran: `"pytorch"`, `"onnx"` or `"openvino"`.
        quantize (`str`, *optional*): `"int8"`, or nothing for the model's own dtype.
        source (`dict[str, str]`): what the caller tells about it: `task`, `dataset`, `config`, `split`, `command`.
    """

    name: str
    settings: dict[str, Any]
    dense: dict[str, float]
    merged: dict[str, float]
    difference: dict[str, float]
    agreement: dict[str, float]
    agreement_title: str
    gflops_dense: float
    gflops_merged: float
    timing: Timing
    num_samples: int
    num_tokens: list[int]
    tokens_left: list[int]
    batch_size: int
    hardware: str
    kept: dict[str, float] = field(default_factory=dict)
    runtime: str = "pytorch"
    quantize: str | None = None
    source: dict[str, str] = field(default_factory=dict)

    @property
    def flops_ratio(self) -> float:
        """How many times fewer operations the merged encoder needs."""
        return self.gflops_dense / self.gflops_merged

    @property
    def metrics(self) -> list[str]:
        """What `dense` and `merged` hold."""
        return [name for name in self.dense if f"{name}_low" in self.dense]


@dataclass(frozen=True)
class Evaluations(Plain, Sequence):
    """What [`evaluate`] found: one [`Evaluation`] for each of the settings. `print` shows the table."""

    evaluations: tuple[Evaluation, ...]

    def __getitem__(self, index):
        return self.evaluations[index]

    def __len__(self) -> int:
        return len(self.evaluations)

    def table(self) -> Any:
        """A `pandas.DataFrame`, in words: the dense model, then each of the settings."""
        import pandas

        rows = [_row(self[0], dense=True), *(_row(one, dense=False) for one in self)]
        return pandas.DataFrame(rows, ["dense", *(one.name for one in self)])

    def __str__(self) -> str:
        first = self[0]
        text, rounds = whole_table(self.table()), first.timing.rounds
        times = f"medians of {rounds} batches, dense and merged alternating, and quartiles of the ratios"
        times = "of one batch, dense and merged" if rounds == 1 else times
        about = (
            f"{first.num_samples} samples; 95 % intervals in brackets, of differences those of the paired samples. "
            f"GFLOPs: {GFLOPS_TITLE}, merge step included. Times: {times}; {first.hardware}."
        )
        return f"{text}\n\n{wrapped([about + self._budgets() + self._contradictions()], indent='')}"

    def _budgets(self) -> str:
        """What budgets are worth at the lengths of these samples, where that is another number."""
        with_budget = [one for one in self if "flops_ratio" in one.settings]
        found: dict[float, list[float]] = {one.settings["flops_ratio"]: [] for one in with_budget}
        for one in with_budget:
            found[one.settings["flops_ratio"]].append(one.flops_ratio)
        other = [
            f"{budget:g} is {' to '.join(dict.fromkeys(f'{ratio:.2f}' for ratio in (min(ratios), max(ratios))))}"
            for budget, ratios in found.items()
            if any(abs(ratio / budget - 1) > 0.02 for ratio in ratios)
        ]
        if not other:
            return ""
        return (
            " A budget is counted at image_size, by default that of the processor or of the configuration, or at the "
            f"longest text that the model reads. At the lengths of these samples, flops_ratio={', '.join(other)}."
        )

    def _contradictions(self) -> str:
        """Says so where the medians of the times are far from the median of the ratios: speeds changed meanwhile."""
        dense = self[0].timing.dense_ms  # the one that the table shows
        wrong = [one.name for one in self if not 0.8 < dense / one.timing.merged_ms / one.timing.speedup < 1 / 0.8]
        if not wrong:
            return ""
        return (
            f" Of {', '.join(wrong)}, the times contradict the speed-up: the machine's speed changed while it was "
            "measured. Go by the speed-up, or measure again while nothing else runs."
        )

    def plot(self, path: str | os.PathLike, title: str | None = None) -> None:
        """Draws every metric, and the agreement with the dense model, against operations, into a picture file.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if the file's name ends in no format of pictures.
        """
        with plotted(path, dpi=150) as axes:
            dense = (self[0].gflops_dense, self[0].dense)
            for where, there in self._by_runtime().items():
                for name in self[0].metrics:
                    curve = [(one.gflops_merged, one.merged) for one in there]
                    curve = curve if where else [dense, *curve]
                    line = _draw(axes, curve, name, f"{metric_title(name)}{where}")
                    if not where:
                        axes.axhline(100 * dense[1][name], color=line.get_color(), linestyle=":", linewidth=1)
                points = [(one.gflops_merged, one.agreement) for one in there]
                _draw(axes, points, "agreement", f"{self[0].agreement_title}{where}")
            marks = [(self[0].gflops_dense, "dense")] if self[0].metrics or len(self._by_runtime()) > 1 else []
            for gflops, name in [*marks, *((one.gflops_merged, one.name) for one in self._by_runtime()[""])]:
                where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
                axes.annotate(name, (gflops, 0), (0, 4), **where)
            axes.set(xlabel=f"{GFLOPS_TITLE}, merge step included", ylabel="% (bars: 95 % interval)")
            axes.set_title(title or "")
            axes.margins(y=0.15)
            axes.legend()

    def _by_runtime(self) -> dict[str, list[Evaluation]]:
        """The evaluations by what tables call their runtime: nothing for PyTorch, which comes first."""
        found: dict[str, list[Evaluation]] = {}
        for one in self:
            where = "" if (one.runtime, one.quantize) == ("pytorch", None) else f", {one.runtime}"
            found.setdefault(f"{where} {one.quantize}" if one.quantize else where, []).append(one)
        return found


def _draw(axes: Any, points: list[tuple[float, Mapping[str, float]]], name: str, label: str) -> Any:
    height = [100 * scores[name] for _, scores in points]
    # Rounding may put the end of an interval on the wrong side of a share of 0 or 1.
    low = [max(0.0, value - 100 * scores[f"{name}_low"]) for value, (_, scores) in zip(height, points)]
    high = [max(0.0, 100 * scores[f"{name}_high"] - value) for value, (_, scores) in zip(height, points)]
    return axes.errorbar([gflops for gflops, _ in points], height, [low, high], marker="o", capsize=3, label=label)[0]


def _row(one: Evaluation, dense: bool) -> dict[str, str]:
    timing, row = one.timing, {}
    for name in one.metrics:
        row[f"{metric_title(name)}, %"] = percent(one.dense if dense else one.merged, name)
        row["- dense, %" if len(one.metrics) == 1 else f"{metric_title(name)} - dense, %"] = (
            "" if dense else percent(one.difference, name, "+")
        )
    row[f"{one.agreement_title}, %"] = "" if dense else percent(one.agreement, "agreement")
    for name in filter(lambda name: f"{name}_low" in one.kept, one.kept):
        row[f"{metric_title(name)}, %"] = "" if dense else percent(one.kept, name)
    fewer, faster = f" ({one.flops_ratio:.2f}x fewer)", f" ({timing.speedup:.2f}x as fast)"
    row["GFLOPs"] = f"{one.gflops_dense:.3g}" if dense else f"{one.gflops_merged:.3g}{fewer}"
    row["tokens"] = " + ".join(map(str, one.num_tokens if dense else one.tokens_left))
    row[f"ms per batch of {one.batch_size}"] = (
        milliseconds(timing.dense_ms) if dense else milliseconds(timing.merged_ms) + faster
    )
    row["quartiles"] = "" if dense else f"{timing.speedup_low:.2f} to {timing.speedup_high:.2f}"
    return row


def metric_title(name: str) -> str:
    """How tables and cards call a metric."""
    return name.replace("_", " ").replace("vqa", "VQA").replace("iou", "IoU")


def percent(values: Mapping[str, float], name: str, sign: str = "") -> str:
    """A share with its interval, as tables show it."""
    value, low, high = (100 * values[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"
