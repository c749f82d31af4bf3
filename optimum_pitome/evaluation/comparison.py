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

"""[`compare`]: many settings of a model on the same samples, one row each, and which of them really differ."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..apply import apply_pitome, pitome_disabled, settings_kept
from ..modeling.eval_mode import eval_mode
from ..modeling.rewrite import rewritten_encoders
from .comparison_report import Comparison
from .grid import DENSE, Grid, Variant
from .judges import Judge
from .passes import Answers, operations, read_answers
from .rows import RowFile, key_of


#: Of a score in a row.
_DIGITS = 6


@dataclass(frozen=True)
class ComparedTask:
    """One task of a comparison.

    Attributes:
        name (`str`): what tables call it.
        load (`Callable`):
            Returns the model, its batches (which are read once for every setting), and a judge or `None`. It is called
            where there are rows to measure.
        identity (`dict`): what its rows follow from beside the settings: model, data, and so on, as plain data.
        measures (`tuple[str, ...]`, *optional*):
            What settings are compared by: metrics of the judge, or `"agreement"` with the dense model. By default
            those that the judge names.
    """

    name: str
    load: Callable[[], tuple[nn.Module, Iterable[Mapping[str, Any]], Judge | None]]
    identity: Mapping[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] | None = None


def compare(
    model: nn.Module,
    data: Iterable[Mapping[str, Any]],
    grid: Mapping[str, Any] | Grid,
    judge: Judge | None = None,
    *,
    measures: Sequence[str] | None = None,
    path: str | os.PathLike | None = None,
    name: str = "",
    progress: bool = True,
) -> Comparison:
    """Measures many settings of a model on the same samples, and says which of them differ from a reference.

    ```python
    found = compare(model, batches, {"budgets": [{"flops_ratio": 1.8}], "vary": {"algorithm": ["tome", "random"]}})
    print(found)
    ```

    The dense model runs once, then each of the settings. Every comparison is over the same samples, and p-values are
    corrected for the number of comparisons (Holm). The model comes back as it was, dense or rewritten.

    Args:
        model (`torch.nn.Module`): a transformers model, dense or rewritten.
        data: batches as [`evaluate`] takes them, which can be read again and again, such as a list.
        grid (`Mapping`):
            `budgets`, `common`, `reference`, `settings`, `vary`, `grid` and `seeds`, as in the file of `optimum-cli
            pitome compare` (docs/comparing.md).
        judge ([`~evaluation.judges.Judge`], *optional*): as [`evaluate`] takes it.
        measures (`list[str]`, *optional*):
            What settings are compared by: metrics of the judge, or `"agreement"` with the dense model.
        path (`str`, *optional*):
            A file that every row is written to as it is known. What it holds is not measured again, so it must be of
            the same model and data.
        name (`str`, *optional*): of the model and its data, for tables.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        [`Comparison`]. `print` shows the tables.

    Raises:
        ValueError: if the grid is not understood, settings do not fit the model, or data can be read only once.
    """
    if iter(data) is data:
        raise ValueError("data can be read once only, and every setting reads it: pass a list of batches.")
    task = ComparedTask(name, lambda: (model, data, judge), {"name": name}, measures and tuple(measures))
    return compare_tasks([task], Grid.of(grid), path, progress)


def compare_tasks(
    tasks: Sequence[ComparedTask], grid: Grid, path: str | os.PathLike | None = None, progress: bool = True
) -> Comparison:
    """[`compare`] over several tasks. A task whose rows are all in the file is not loaded."""
    file, variants, rows = RowFile(path), [None, *grid.variants], {}
    keys = {
        task.name: [key_of(task.identity, variant and variant.config.to_pitome_dict()) for variant in variants]
        for task in tasks
    }
    wanted = [key for of_task in keys.values() for key in of_task]
    known = sum(key in file.rows for key in wanted)
    with logging.tqdm(total=len(wanted), initial=known, disable=not progress, unit=" rows") as bar:
        for task in tasks:
            if any(key not in file.rows for key in keys[task.name]):
                bar.set_description(task.name)
                _Measuring(task, file, bar).run(dict(zip(keys[task.name], variants)))
            rows[task.name] = [file.rows[key] for key in keys[task.name]]
    return Comparison.of({task.name: task.measures for task in tasks}, grid, rows)


class _Measuring:
    """Fills the rows of one task."""

    def __init__(self, task: ComparedTask, file: RowFile, bar: Any):
        self.task, self.file, self.bar = task, file, bar
        self.model, self.data, self.judge = task.load()

    def run(self, variants: Mapping[str, Variant | None]) -> None:
        """Measures those of the settings, by the keys of their rows, that the file lacks."""
        with eval_mode(self.model), settings_kept(self.model):
            for variant in filter(None, variants.values()):  # what does not fit is refused before anything is run
                self._apply(variant)
            with pitome_disabled(self.model):
                read = self._read(())
                self.judge, self.references, self.count = read.judge, read.references, len(read.lengths)
                dense = self.judge.decide(read.answers[0], read.references)
            same: dict[str, dict[str, Any]] = {}
            for key, variant in variants.items():
                row = self.file.rows.get(key)
                if row is None:
                    row = self._dense(dense) if variant is None else self._row(variant, dense, same)
                    row = self.file.add(key, row)
                    self.bar.update()
                if variant is not None:
                    same[row["resolved"]] = row

    def _apply(self, variant: Variant) -> list[nn.Module]:
        try:
            apply_pitome(self.model, variant.config)
        except ValueError as error:
            raise ValueError(f"{variant.title}, on {self.task.name or type(self.model).__name__}: {error}") from error
        return rewritten_encoders(self.model)

    @torch.no_grad()
    def _read(self, layers: Iterable[nn.Module]) -> Answers:
        data = logging.tqdm(self.data, leave=False, disable=self.bar.disable, unit=" batches")
        return read_answers(self.model, data, self.judge, layers, lambda answer: [answer()])

    def _about(self, decisions: list) -> dict[str, Any]:
        scores = self.judge.scores(decisions, self.references) if self.references else {}
        return {
            "num_samples": self.count,
            "compared": list(self.judge.compared),
            "agreement_title": self.judge.agreement,
            "kept_metrics": list(self.judge.kept_metrics),
            "scores": {name: _rounded(values) for name, values in scores.items()},
        }

    def _dense(self, decisions: list) -> dict[str, Any]:
        return {"task": self.task.name, "name": DENSE, "settings": None, **self._about(decisions)}

    def _row(self, variant: Variant, dense: list, same: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        encoders = self._apply(variant)
        resolved = _resolved(encoders)
        own = {"task": self.task.name, "name": variant.name, "budget": variant.budget, "seed": variant.seed}
        own["settings"] = variant.config.to_pitome_dict()
        if resolved in same:  # under another name
            return {**same[resolved], **own}
        read = self._read([encoder.pitome.architecture.find_layers(encoder)[0] for encoder in encoders])
        merged = self.judge.decide(read.answers[0], self.references)
        return {
            **own,
            "resolved": resolved,
            **operations(self.model, Counter(read.lengths)),
            **self._about(merged),
            "agreement": _rounded(map(self.judge.agree, merged, dense)),
            "kept": {name: _rounded(values) for name, values in self.judge.kept(merged, dense).items()},
        }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), _DIGITS) for value in values]


def _resolved(encoders: list[nn.Module]) -> str:
    """What tells settings apart once every field has its value for the model at hand."""
    rewrites = [encoder.pitome for encoder in encoders]
    found: list[Any] = [[rewrite.unmerge, *(spec.text for spec in rewrite.specs)] for rewrite in rewrites]
    found += [list(rewrite.protect_token_ids) for rewrite in rewrites]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
