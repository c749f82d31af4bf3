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

"""`optimum-cli pitome compare`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from transformers import AutoConfig

from ..analysis.pictures import figure_class
from ..apply import apply_pitome
from ..configuration.checks import show, similar
from ..evaluation.comparison import ComparedTask, compare_tasks
from ..evaluation.comparison_report import AGREEMENT, Comparison
from ..evaluation.grid import Grid
from .arguments import check_model, reason_of
from .results import Results, explained
from .task_options import add_entry
from .tasks import TASKS, check_task, columns_of, empty_model, load_task, read_data


def run(args: argparse.Namespace, results: Results) -> None:
    folder = Path(args.output)
    figure_class()  # not after hours
    try:
        grid = Grid.read(args.grid, args.seeds)
    except OSError as error:
        raise ValueError(
            f"GRID.yaml {args.grid}: {reason_of(error)}. Name a file of YAML: see docs/comparing.md."
        ) from error
    tasks = [_task(entry, args, f"{args.grid}: tasks, {entry['name']}") for entry in grid.tasks]
    for task in tasks:
        _check_fit(task, grid, args.grid, f"{args.grid}: tasks, {task.name}")
    compared = [_compared(task, f"{args.grid}: tasks, {task.name}") for task in tasks]
    try:
        found = compare_tasks(compared, grid, folder / "rows.jsonl")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from {folder / 'rows.jsonl'}") from None
    results.add(found, **found.to_dict())
    _write(found, folder)
    text = f"Report: {folder / 'report.md'}, report.json and report.png; every sample: rows.jsonl."
    results.add(text, files=[folder / name for name in ("report.md", "report.json", "report.png", "rows.jsonl")])


def _write(found: Comparison, folder: Path) -> None:
    found.to_json(folder / "report.json")
    found.plot(folder / "report.png")
    text = f"# Settings compared\n\n{found.to_markdown()}\n![differences to the reference](report.png)\n"
    (folder / "report.md").write_text(text, encoding="utf-8")


class _EntryParser(argparse.ArgumentParser):
    """Reads an entry of a file as the command line would."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.replace("the following arguments are required", "missing").replace("--", ""))


def _task(entry: Mapping[str, Any], args: argparse.Namespace, where: str) -> argparse.Namespace:
    """The options of a task, checked as those of `evaluate` are."""
    parser = _EntryParser(add_help=False, allow_abbrev=False)
    add_entry(parser)
    known = [action.dest for action in parser._actions]
    words = []
    for key, value in entry.items():
        if key not in known:
            close = similar(key, known)
            hint = f" Did you mean {close!r}?" if close else ""
            raise ValueError(f"{where}: {show(key)} is not understood. Expected {', '.join(known)}.{hint}")
        if value is None:
            continue
        values = [str(one) for one in (value if isinstance(value, list) else [value])]
        words += values if key == "model" else [f"--{key.replace('_', '-')}", *values]
    try:
        task = parser.parse_args(words)
        for name in ("max_samples", "batch_size", "device", "dtype"):
            if getattr(args, name) is not None:
                setattr(task, name, getattr(args, name))
        task.model, task.dataset = map(_expanded, (task.model, task.dataset))
        check_model(task.model)
        check_task(task)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    judge = TASKS[task.task].judge
    accepted = [*judge.metrics, AGREEMENT, *judge.kept_metrics]
    for measure in task.measures or ():
        if measure not in accepted:
            raise ValueError(f"{where}: measures: {measure!r}: expected some of {', '.join(accepted)}.")
    return task


def _expanded(path: str) -> str:
    """As a shell would read it."""
    found = os.path.expandvars(os.path.expanduser(path))
    if found.startswith("$"):
        raise ValueError(f"{path}: this variable is not set. Export it first.")
    return found


def _check_fit(task: argparse.Namespace, grid: Grid, file: str, where: str) -> None:
    """Tries all settings on the task's model without its weights."""
    try:
        model = empty_model(task)
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{where}: {explained(error, task.model)}") from error
    for variant in grid.variants:
        try:
            apply_pitome(model, variant.config)
        except ValueError as error:
            raise ValueError(f"{file}: {variant.title}, on {task.name}: {error}") from None


def _compared(task: argparse.Namespace, where: str) -> ComparedTask:
    """A task whose data are there: the last one starts hours after the first."""
    try:
        dataset, _ = read_data(task)
        columns_of(task, AutoConfig.from_pretrained(task.model, revision=task.revision), dataset)
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}") from error

    def load():
        config = AutoConfig.from_pretrained(task.model, revision=task.revision)
        try:
            model, judge, data = load_task(task, config, {"pitome": False}, dataset)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return model, data, judge

    identity = {key: value for key, value in vars(task).items() if key not in ("name", "measures")}
    return ComparedTask(task.name, load, identity, task.measures and tuple(task.measures))
