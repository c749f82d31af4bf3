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

"""What a comparison runs: tasks and settings, from a mapping or a YAML file, checked before anything is loaded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..configuration.checks import BUDGETS, check_count, show, similar
from ..configuration.config import PiToMeConfig
from ..configuration.fields import FIELDS, fields_of, unknown_field_message
from ..methods import ALGORITHMS


REFERENCE = "reference"
DENSE = "dense"

#: What a list of tasks is, for messages.
_TASKS = "entries, such as - name: photos (each begins with a dash)"
_KEYS = ("tasks", "budgets", "common", REFERENCE, "settings", "vary", "grid", "seeds")


@dataclass(frozen=True)
class Variant:
    """One of the settings.

    Attributes:
        name (`str`): what tables call it; `"reference"` is what the others are compared with.
        budget (`str`): such as `"flops_ratio=1.8"`; empty where there are no `budgets`.
        config ([`PiToMeConfig`]): the settings.
        seed (`int`, *optional*): where an algorithm leaves something to chance.
    """

    name: str
    budget: str
    config: PiToMeConfig
    seed: int | None = None

    @property
    def title(self) -> str:
        """How messages call it."""
        parts = [self.budget, self.name, "" if self.seed is None else f"seed {self.seed}"]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        variants (`tuple[Variant, ...]`): of every budget the reference first.
        tasks (`tuple[dict, ...]`): as the file has them, unchecked but for being mappings with a name of their own.
    """

    variants: tuple[Variant, ...]
    tasks: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike, seeds: list[int] | None = None) -> Grid:
        """The grid in a YAML file.

        Args:
            seeds (`list[int]`, *optional*): in place of those in the file.

        Raises:
            ValueError: if something in it is not understood; the message says where.
            OSError: if it cannot be read.
        """
        try:
            found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
        try:
            grid = cls.of(found, seeds)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not grid.tasks:
            raise ValueError(f"{path}: there are no tasks. Expected a list, each with a task, a model and a dataset.")
        return grid

    @classmethod
    def of(cls, grid: Any, seeds: list[int] | None = None) -> Grid:
        """The grid that a mapping describes, as in a YAML file; `tasks` may be missing."""
        if isinstance(grid, Grid):
            return grid
        grid = _mapping("the grid", grid)
        for key in grid:
            if key not in _KEYS:
                close = similar(key, _KEYS)
                hint = f" Did you mean {close!r}?" if close else ""
                raise ValueError(f"{show(key)} is not understood. Expected {', '.join(_KEYS)}.{hint}")
        seeds = [check_count("seeds", seed) for seed in _list("seeds", grid.get("seeds") if seeds is None else seeds)]
        variants = [
            seeded
            for budget in _budgets(grid)
            for variant in _variants(grid, budget)
            for seeded in _seeded(variant, list(dict.fromkeys(seeds)) or [0])
        ]
        if not any(variant.name != REFERENCE for variant in variants):
            raise ValueError(
                "there is nothing to compare with the reference. Name some settings: a mapping under settings, or "
                "fields with lists of values under vary or grid."
            )
        return cls(tuple(variants), tuple(_tasks(grid)))


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake, not the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where}: expected a mapping, not {show(value)}.")
    return dict(value)


def _list(where: str, value: Any, example: str = "values, such as [0, 1]") -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{where}: expected a list of {example}, not {show(value)}.")
    return list(value)


def _tasks(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names = set()
    for number, entry in enumerate(_list("tasks", grid.get("tasks"), _TASKS), start=1):
        task = _mapping(f"tasks, entry {number}", entry)
        name = task.setdefault("name", f"{Path(str(task.get('dataset'))).stem}")
        if not isinstance(name, str) or name in names:
            raise ValueError(f"tasks, entry {number}: name={show(name)}: expected a name that no other task has.")
        names.add(name)
        yield task


def _budgets(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    budgets = [_fields("budgets", entry) for entry in _list("budgets", grid.get("budgets"))]
    for budget in budgets:
        if len(budget) != 1 or not budget.keys() <= {*BUDGETS}:
            raise ValueError(
                f"budgets, {show(budget)}: expected one of {', '.join(BUDGETS)}, such as flops_ratio: 1.8."
            )
    return budgets or [{}]


def _variants(grid: Mapping[str, Any], budget: dict[str, Any]) -> Iterator[Variant]:
    """The settings at one budget, each once; the reference first."""
    label = ", ".join(f"{key}={value}" for key, value in budget.items())
    common = _fields("common", grid.get("common"))
    if budget and not common.keys().isdisjoint(BUDGETS):
        raise ValueError("common says how much merges, and so does budgets. Say it in one of them.")
    configs: dict[str, PiToMeConfig] = {}
    for where, name, fields in _entries(grid):
        if len(grid.get("budgets") or ()) > 1 and not fields.keys().isdisjoint(BUDGETS):
            raise ValueError(
                f"{where} says how much merges, and there are several budgets, of which each has a reference of its "
                "own. Leave it out, or make a file of its own for it."
            )
        try:
            config = PiToMeConfig(**_on_top(_on_top(budget, common), fields))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if name in configs and configs[name] != config:
            raise ValueError(f"{where}: there are other settings that are called {name!r}. Choose another name.")
        if config not in configs.values():
            configs[name] = config
            yield Variant(name, label, config)


def _entries(grid: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where each of the settings stands, its name, and its fields."""
    reference = _fields(REFERENCE, grid.get(REFERENCE))
    yield REFERENCE, REFERENCE, reference
    for name, value in _mapping("settings", grid.get("settings")).items():
        if name in (REFERENCE, DENSE):
            raise ValueError(f"settings, {name}: this is what tables call another row. Choose another name.")
        yield f"settings, {name}", name, _fields(f"settings, {name}", value)
    for field, values in _lists_of_values("vary", grid).items():
        for value in values:
            yield f"vary, {field}", _name({field: value}), _on_top(reference, {field: value})
    lists = _lists_of_values("grid", grid)
    for chosen in itertools.product(*lists.values()) if lists else ():
        fields = dict(zip(lists, chosen))
        yield f"grid, {_name(fields)}", _name(fields), fields


def _lists_of_values(where: str, grid: Mapping[str, Any]) -> dict[str, list[Any]]:
    fields = _mapping(where, grid.get(where))
    return {name: _list(f"{where}, {name}", values) for name, values in _known(where, fields).items()}


def _fields(where: str, value: Any) -> dict[str, Any]:
    """The fields that a mapping, or a ratio, sets."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = {"ratio": value}
    try:
        return fields_of(_known(where, fields_of(_mapping(where, value))))
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _known(where: str, fields: dict[str, Any]) -> dict[str, Any]:
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"{where}: {unknown_field_message(name, fields[name])}")
        if FIELDS[name].scope == "file":
            raise ValueError(f"{where}, {name}: this belongs to a file, and changes nothing. Leave it out.")
    return fields


def _on_top(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `own` says; a budget of its own replaces the other and its profile. `None`: the default."""
    if any(own.get(name) is not None for name in BUDGETS):
        base = {name: value for name, value in base.items() if name not in (*BUDGETS, "profile")}
    return {name: value for name, value in {**base, **own}.items() if value is not None}


def _name(fields: Mapping[str, Any]) -> str:
    shown = {name: value if isinstance(value, str) else show(value, 80) for name, value in fields.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _seeded(variant: Variant, seeds: list[int]) -> list[Variant]:
    """One for each seed, where an algorithm leaves something to chance."""
    config = variant.config
    names = [config.algorithm, *(part.get("algorithm") for part in (config.parts or {}).values())]
    if config.random_seed is not None or not any(name in ALGORITHMS and ALGORITHMS[name].draws for name in names):
        return [variant]
    fields = config.to_pitome_dict()
    return [replace(variant, config=PiToMeConfig(**fields, random_seed=seed), seed=seed) for seed in seeds]
