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

"""[`Report`]: rows as a table, Markdown, JSON and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.pictures import plotted
from ..analysis.report import markdown_table, milliseconds, whole_table, wrapped
from .row import Row


_TITLES = (
    "model",
    "settings",
    "how",
    "batch",
    "tokens",
    "dense, ms",
    "merged, ms",
    "speed-up",
    "quartiles",
    "fewer operations",
    "realised",
    "its quartiles",
    "merge step",
    "peak MB",
    "1 - cosine",
)
#: The columns that say which row it is; in a terminal, where a table goes on below, they stand in front of each part.
_NAMES = _TITLES[:4]
#: What is said of a column, where there is one.
_EXPLANATIONS = {
    "dense, ms": "Times: medians of rounds in which dense and merged alternate in one process.",
    "speed-up": "Speed-up: the median of the ratios inside the rounds, with quartiles.",
    "fewer operations": "Fewer operations: of the whole model, counted by torch.",
    "realised": "Realised: the speed-up over that.",
    "merge step": "Merge step: matching and merging alone, as a share of the merged time.",
    "peak MB": "Peak MB: what tensors took at once, dense > merged, without weights.",
    "1 - cosine": "1 - cosine: merged in the runtime (or int8) against merged in PyTorch.",
}


@dataclass(frozen=True)
class Report:
    """Rows of one machine. `print` shows the table.

    Attributes:
        rows (`Sequence[Row]`), machine (`Mapping`): what was measured, and on what.
    """

    rows: Sequence[Row]
    machine: Mapping[str, Any]

    @property
    def about(self) -> str:
        where = self.machine["name"]
        if "threads" in self.machine:
            where += f", {self.machine['threads']} of {self.machine['cores']} threads"
        if self.machine["clock"] == "cpu":
            where += ", processor time"
        if self.machine.get("kernels") is not None:  # files of earlier versions say nothing
            where += f", merging kernels in {self.machine['kernels'].capitalize()}"
        versions = ", ".join(f"{name} {version}" for name, version in self.machine["versions"].items())
        return f"{where}; {versions}"

    def table(self) -> Any:
        """A `pandas.DataFrame` of words; columns in which no row says anything are left out."""
        import pandas

        frame = pandas.DataFrame([_cells(row) for row in self.rows], columns=list(_TITLES))
        return frame.loc[:, (frame != "").any()]

    @property
    def explanation(self) -> str:
        """What the columns of the table are."""
        shown = self.table().columns
        return " ".join(text for title, text in _EXPLANATIONS.items() if title in shown)

    def __str__(self) -> str:
        table = self.table()
        names = [title for title in _NAMES if title in table.columns]
        table = table.set_index(names) if names else table
        failed = [f"Cannot run ({reason}): {rows}" for reason, rows in self._failed().items()]
        after = wrapped([*failed, self.explanation], indent="")
        return "\n".join([wrapped([self.about]), whole_table(table, sparsify=False), after])

    def _failed(self) -> dict[str, str]:
        """From each reason to the rows that have it."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.error:
                found.setdefault(row.error, []).append(_label(row))
        return {reason: "; ".join(labels) for reason, labels in found.items()}

    def to_markdown(self) -> str:
        lines = ["# Benchmark", "", self.about, "", *markdown_table(self.table())]
        failed = [f"- {reason}: {rows}" for reason, rows in self._failed().items()]
        if failed:
            lines += ["", "What could not run:", "", *failed]
        return "\n".join([*lines, "", self.explanation, ""])

    def to_dict(self) -> dict[str, Any]:
        return {"machine": dict(self.machine), "rows": [row.to_dict() for row in self.rows]}

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the speed-up over the ratio of operations: on the line, all of it is realised.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            if not row.error:
                groups.setdefault(f"{Path(row.combination.model).name}, {row.combination.how}", []).append(row)
        most = max((row.operations_ratio for rows in groups.values() for row in rows), default=2.0)
        with plotted(path, 130, (9.0, 5.4)) as axes:
            axes.plot([1, most], [1, most], color="black", linewidth=0.8, linestyle="--", label="all realised")
            for label, rows in groups.items():
                values = [(row.operations_ratio, row.speedup, row.speedup_low, row.speedup_high) for row in rows]
                x, y, low, high = zip(*values)
                bars = [[max(0.0, a - b) for a, b in zip(y, low)], [max(0.0, b - a) for a, b in zip(y, high)]]
                axes.errorbar(x, y, yerr=bars, marker="o", capsize=2, linestyle="none", label=label)
                for row in rows:
                    place = (row.operations_ratio, row.speedup)
                    axes.annotate(str(row.combination.batch_size), place, xytext=(4, 2), textcoords="offset points")
            axes.set_xlabel("times fewer operations")
            axes.set_ylabel("times as fast")
            axes.set_title(f"{self.machine['name']} (numbers: batch sizes)", fontsize=9)
            axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `benchmark.json`, `benchmark.md` and `benchmark.png`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "benchmark.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "benchmark.md").write_text(self.to_markdown(), encoding="utf-8")
        self.plot(folder / "benchmark.png")


def _label(row: Row) -> str:
    parts = (Path(row.combination.model).name, _settings(row), row.combination.how)
    return ", ".join([*filter(None, parts), f"batch of {row.combination.batch_size}"])


def _settings(row: Row) -> str:
    settings = row.combination.settings_dict() or {}
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _cells(row: Row) -> list[str]:
    combination = row.combination
    cells = [Path(combination.model).name, _settings(row), combination.how, str(combination.batch_size)]
    if row.error:
        return [*cells, "", "cannot run", *[""] * (len(_TITLES) - 6)]
    share = "" if row.merge_share is None else f"{100 * row.merge_share:.0f} %"
    peaks = [peak for peak in (row.peak_dense, row.peak_merged) if peak is not None]
    realised = row.realised
    return [
        *cells,
        f"{row.tokens[0]} > {row.tokens[-1]}",
        milliseconds(row.dense_ms),
        milliseconds(row.merged_ms),
        f"{row.speedup:.2f}x",
        f"{row.speedup_low:.2f} to {row.speedup_high:.2f}",
        f"{row.operations_ratio:.2f}x",
        f"{realised[0]:.2f}",
        f"{realised[1]:.2f} to {realised[2]:.2f}",
        share,
        " > ".join(f"{peak / 2**20:.0f}" for peak in peaks),
        "" if row.loss_merged is None else f"{row.loss_merged:.1e}",
    ]
