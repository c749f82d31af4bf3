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

"""[`Comparison`]: what came of a comparison, as tables, Markdown, JSON and a plot."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..analysis.pictures import plotted
from ..analysis.plain import Plain
from ..analysis.report import markdown_table, whole_table, wrapped
from .grid import DENSE, REFERENCE, Grid
from .metrics import paired_difference, share
from .results import GFLOPS_TITLE, metric_title, percent
from .significance import ALPHA, holm, paired_test, verdict


AGREEMENT = "agreement"
_COLOURS = {"better": "tab:green", "worse": "tab:red"}
#: With the scores of the reference and of the settings, sample by sample.
_Entry = tuple["Compared", tuple[list[float], list[float]] | None]


@dataclass(frozen=True)
class Compared:
    """One of the settings at one task, by one measure.

    Attributes:
        task, budget, name (`str`), settings (`dict`, *optional*): which; the dense model has no settings.
        seeds (`list[int]`): of those that the values are means over, where there is chance.
        measure (`str`), title (`str`): what it is compared by, and what tables call that.
        value (`dict[str, float]`): the mean under `measure`, and its 95 % interval under `_low` and `_high`.
        seed_values (`list[float]`): the means of the single seeds.
        num_samples (`int`): what was measured; of recalls, the queries.
        gflops (`float`), flops_ratio (`float`): 10**9 operations per sample, and how many times fewer than dense.
        tokens_left (`list[int]`): after the last layer of each encoder, of an input of median length.
        difference (`dict[str, float]`, *optional*): to the reference on the same samples, as `value`.
        cost (`float`, *optional*): the operations divided by the reference's.
        test (`str`), p, p_corrected (`float`, *optional*): see [`~evaluation.significance.paired_test`].
        verdict (`str`): `"better"`, `"worse"`, `"no difference shown"`, or `"the same"` as the reference under another
            name.
    """

    task: str
    budget: str
    name: str
    settings: dict[str, Any] | None
    seeds: list[int]
    measure: str
    title: str
    value: dict[str, float]
    seed_values: list[float]
    num_samples: int
    gflops: float
    flops_ratio: float = 1.0
    tokens_left: list[int] | None = None
    difference: dict[str, float] | None = None
    cost: float | None = None
    test: str = ""
    p: float | None = None
    p_corrected: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Comparison(Plain):
    """Everything that was compared. `print` shows one table for each task, budget and measure."""

    entries: tuple[Compared, ...]

    @classmethod
    def of(
        cls, measures: Mapping[str, Sequence[str] | None], grid: Grid, rows: Mapping[str, list[dict[str, Any]]]
    ) -> Comparison:
        """
        Args:
            measures (`Mapping`): from each task to what is compared; `None` for what its judge names.
            grid ([`Grid`]): the settings.
            rows (`Mapping`): from each task to the row of the dense model and those of the settings, in their order.

        Raises:
            ValueError: if a measure is none of the task's, or rows are of other samples.
        """
        found: list[_Entry] = []
        for task, (dense, *of_variants) in rows.items():
            groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for variant, row in zip(grid.variants, of_variants):
                groups.setdefault((variant.budget, variant.name), []).append({**row, "seed": variant.seed})
            for measure in _measures(task, measures[task], dense):
                found += _table(task, measure, dense, groups)
        return cls(tuple(_tested(found)))

    def tables(self) -> Iterator[tuple[str, Any]]:
        """A title and a `pandas.DataFrame`, in words, for each task, budget and measure."""
        import pandas

        for title, entries in self._groups().items():
            seeded = any(len(entry.seeds) > 1 for entry in entries)
            rows = [_row(entry, seeded) for entry in entries]
            yield f"{title}, {entries[0].num_samples} samples", pandas.DataFrame(rows, [one.name for one in entries])

    def _groups(self) -> dict[str, list[Compared]]:
        groups: dict[str, list[Compared]] = {}
        for entry in self.entries:
            about = ", ".join(filter(None, (entry.task, entry.budget)))
            groups.setdefault(f"{about}: {entry.title}".removeprefix(": "), []).append(entry)
        return groups

    @property
    def explanation(self) -> str:
        """What the tables show, and how differences were tested."""
        tests = sorted({entry.test for entry in self.entries if entry.test})
        number = sum(entry.p is not None for entry in self.entries)
        return (
            "Intervals of 95 % stand in brackets; those of differences are of the paired samples, each by itself. p: "
            f"{' or '.join(tests) or 'no test'}, two-sided, corrected for {number} comparisons (Holm). A difference "
            f'with p >= {ALPHA:g} is "no difference shown". GFLOPs: {GFLOPS_TITLE}, merge step included; % more: than '
            "the reference."
        )

    def __str__(self) -> str:
        tables = [f"{title}\n{whole_table(table)}" for title, table in self.tables()]
        return "\n\n".join([*tables, wrapped([self.explanation], indent="")])

    def to_markdown(self) -> str:
        """The tables in Markdown."""
        lines = []
        for title, table in self.tables():
            lines += [f"## {title}", "", *markdown_table(table.reset_index(names="settings")), ""]
        return "\n".join([*lines, self.explanation, ""])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single samples, as plain data."""
        return {"explanation": self.explanation, **super().to_dict()}

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the differences to the reference with their intervals into a picture file, one panel for each
        table.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if the file's name ends in no format of pictures.
        """
        groups = {key: [one for one in entries if one.difference] for key, entries in self._groups().items()}
        heights = [1.2 + 0.25 * len(entries) for entries in groups.values()]
        with plotted(path, 110, (9.0, sum(heights)), len(groups)) as panels:
            for axes, (title, entries) in zip(panels, groups.items()):
                for place, one in enumerate(entries):
                    value, low, high = (100 * one.difference[f"{one.measure}{end}"] for end in ("", "_low", "_high"))
                    bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
                    colour = _COLOURS.get(one.verdict, "tab:gray")
                    axes.errorbar([value], [place], xerr=bars, marker="o", capsize=3, color=colour)
                labels = [f"{one.name[:60]} ({one.flops_ratio:.2f}x)" for one in entries]
                axes.set_yticks(range(len(entries)), labels, fontsize=7)
                axes.invert_yaxis()
                axes.axvline(0.0, color="black", linewidth=0.8)
                axes.set_title(f"{title}, minus the reference's, points", fontsize=9)


def _measures(task: str, wanted: Sequence[str] | None, dense: Mapping[str, Any]) -> Sequence[str]:
    known = [*dense["scores"], AGREEMENT, *dense.get("kept_metrics", ())]
    if wanted is None:
        return [name for name in dense["compared"] if name in known] or [AGREEMENT]
    for name in wanted:
        if name not in known:
            raise ValueError(f"{task}: measures: {name!r} is not measured here. Expected some of {', '.join(known)}.")
    return wanted


def _table(
    task: str, measure: str, dense: dict[str, Any], groups: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> list[_Entry]:
    """The entries of one table, with the scores of the reference and its own where there are some to compare."""
    every = [row for rows in groups.values() for row in rows] + ([dense] if measure in dense["scores"] else [])
    counts = sorted({len(_scores(row, measure)) for row in every})
    if len(counts) > 1:
        raise ValueError(
            f"{task}: the rows are of {' and '.join(map(str, counts))} samples: the data must have changed since some "
            "were measured. Delete the file with the rows, or name another folder."
        )

    def entry(budget: str, name: str, rows: list[dict[str, Any]], gflops: float) -> Compared:
        scores = [_scores(row, measure) for row in rows]
        return Compared(
            task=task,
            budget=budget,
            name=name,
            settings=rows[0]["settings"],
            seeds=[row["seed"] for row in rows if row.get("seed") is not None],
            measure=measure,
            title=dense["agreement_title"] if measure == AGREEMENT else metric_title(measure),
            value=share(measure, _mean(scores)),
            seed_values=[statistics.fmean(one) for one in scores],
            num_samples=len(scores[0]),
            gflops=gflops,
        )

    found: list[_Entry] = []
    for (budget, name), rows in groups.items():
        if name == REFERENCE and measure in dense["scores"]:
            found.append((entry(budget, DENSE, [dense], rows[0]["gflops_dense"]), None))
        one = entry(budget, name, rows, rows[0]["gflops_merged"])
        one = replace(
            one, flops_ratio=rows[0]["gflops_dense"] / one.gflops, tokens_left=list(map(int, rows[0]["tokens_left"]))
        )
        pair, reference = None, groups[budget, REFERENCE]
        if name != REFERENCE:
            one = replace(one, cost=one.gflops / reference[0]["gflops_merged"], verdict="the same")
            if [row["resolved"] for row in rows] != [row["resolved"] for row in reference]:
                pair = tuple(_mean([_scores(row, measure) for row in of_one]) for of_one in (reference, rows))
        found.append((one, pair))
    return found


def _tested(found: list[_Entry]) -> Iterator[Compared]:
    """The entries with their differences, and p-values that count all of them."""
    number = sum(pair is not None for _, pair in found)
    tests = [None if pair is None else paired_test(*pair, number) for _, pair in found]
    corrected = iter(holm([test[0] for test in tests if test is not None]))
    for (entry, pair), test in zip(found, tests):
        if pair is None:
            yield entry
            continue
        difference, p = paired_difference(entry.measure, *pair), next(corrected)
        said = verdict(difference[entry.measure], p)
        yield replace(entry, difference=difference, test=test[1], p=test[0], p_corrected=p, verdict=said)


def _scores(row: Mapping[str, Any], measure: str) -> list[float]:
    return row[AGREEMENT] if measure == AGREEMENT else {**row["scores"], **row.get("kept", {})}[measure]


def _mean(scores: list[list[float]]) -> list[float]:
    """Of every sample, over the seeds."""
    return scores[0] if len(scores) == 1 else [statistics.fmean(one) for one in zip(*scores, strict=True)]


def _row(entry: Compared, seeded: bool) -> dict[str, str]:
    row = {f"{entry.title}, %": percent(entry.value, entry.measure)}
    if seeded:
        ends = (f"{100 * end:.2f}" for end in (min(entry.seed_values), max(entry.seed_values)))
        row["seeds"] = f"{len(entry.seeds)}: {' to '.join(ends)}" if len(entry.seeds) > 1 else ""
    row["GFLOPs"] = f"{entry.gflops:.3g}" + (f" ({entry.flops_ratio:.2f}x fewer)" if entry.settings else "")
    row["% more"] = "" if entry.cost is None else f"{100 * (entry.cost - 1):+.1f}"
    row["- reference, %"] = "" if entry.difference is None else percent(entry.difference, entry.measure, "+")
    row["p (Holm)"] = "" if entry.p_corrected is None else f"{entry.p_corrected:.3g}"
    row["verdict"] = entry.verdict
    return row
