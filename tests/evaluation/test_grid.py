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

"""Grids of settings, from mappings and YAML files."""

import pytest
import yaml

from optimum_pitome import PiToMeConfig
from optimum_pitome.evaluation.grid import Grid


TASK = {"task": "feature-extraction", "model": "m", "dataset": "folder/photos.csv"}


def names(grid, **kwargs):
    return [variant.title for variant in Grid.of(grid, **kwargs).variants]


def test_every_way_to_name_settings():
    grid = {
        "common": {"metric": "keys", "ratio": 0.8},
        "reference": {"energy": "paper"},
        "settings": {"plain": 0.9, "code": {"preset": "official", "ratio": 0.7}},
        "vary": {"alpha": [0.5, 1.0], "energy": ["elu", None]},
        "grid": {"algorithm": ["tome", "pitome"], "importance": [0, 0.5]},
    }
    found = {variant.name: variant.config for variant in Grid.of(grid).variants}
    assert found == {
        "reference": PiToMeConfig(ratio=0.8, metric="keys", energy="paper"),
        "plain": PiToMeConfig(ratio=0.9, metric="keys"),
        "code": PiToMeConfig(ratio=0.7, metric="keys", preset="official"),
        "alpha=0.5": PiToMeConfig(ratio=0.8, metric="keys", energy="paper", alpha=0.5),
        "alpha=1.0": PiToMeConfig(ratio=0.8, metric="keys", energy="paper", alpha=1.0),
        "energy=elu": PiToMeConfig(ratio=0.8, metric="keys", energy="elu"),
        "energy=None": PiToMeConfig(ratio=0.8, metric="keys"),
        "algorithm=tome, importance=0": PiToMeConfig(ratio=0.8, metric="keys", algorithm="tome", importance=0),
        "algorithm=tome, importance=0.5": PiToMeConfig(ratio=0.8, metric="keys", algorithm="tome", importance=0.5),
        "algorithm=pitome, importance=0": PiToMeConfig(ratio=0.8, metric="keys", algorithm="pitome", importance=0),
        "algorithm=pitome, importance=0.5": PiToMeConfig(ratio=0.8, metric="keys", algorithm="pitome", importance=0.5),
    }
    # A list is a value where the values are lists.
    layered = Grid.of({"vary": {"ratio": [0.8, [0.9, 0.8]], "layers": [[0], [1]]}}).variants
    assert [one.config.ratio for one in layered] == [0.9, 0.8, [0.9, 0.8], 0.9, 0.9] and layered[3].config.layers == [
        0
    ]


def test_each_budget_has_its_reference_and_duplicates_are_dropped():
    grid = {"budgets": [{"flops_ratio": 1.35}, {"flops_ratio": 1.8}], "reference": {"profile": "late"}}
    grid |= {"vary": {"profile": ["late", "uniform"]}, "settings": {"one": {"profile": "uniform"}}}
    found = ["reference", "one"]
    assert names(grid) == [f"flops_ratio={budget}, {name}" for budget in (1.35, 1.8) for name in found]
    # With one budget, settings may have their own in its place; the profile goes with it.
    own = Grid.of(
        {"budgets": [{"flops_ratio": 1.8}], "settings": {"fixed": {"ratio": 0.9}}, "common": {"profile": "late"}}
    )
    assert own.variants[1].config == PiToMeConfig(ratio=0.9)


def test_seeds_where_there_is_chance():
    grid = {"seeds": [3, 1, 3], "vary": {"algorithm": ["tome", "random"]}, "settings": {"own": {"parts": {}}}}
    grid["settings"] = {"part": {"parts": {"vision": {"algorithm": "pitome_random_split"}}}}
    found = ["reference", "part, seed 3", "part, seed 1"]
    found += ["algorithm=tome", "algorithm=random, seed 3", "algorithm=random, seed 1"]
    assert names(grid) == found
    assert [one.config.random_seed for one in Grid.of(grid).variants] == [None, 3, 1, None, 3, 1]
    assert names({**grid, "settings": {}}, seeds=[7])[2:] == ["algorithm=random, seed 7"]
    assert names({"settings": {"one": {"algorithm": "random", "random_seed": 5}}}) == ["reference", "one"]


def test_files(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"tasks": [TASK, {**TASK, "name": "again"}], "vary": {"alpha": [0.5]}}))
    grid = Grid.read(path)
    assert [task["name"] for task in grid.tasks] == ["photos", "again"] and grid.tasks[0]["model"] == "m"
    for text, message in (
        ("vary: [unclosed", "grid.yaml is not YAML"),
        ("vary: {alpha: [1]}\nvary: {alpha: [2]}", "'vary' stands twice"),
        ("vary: {alpha: [0.5]}", "grid.yaml: there are no tasks"),
        ("- 1", "grid.yaml: the grid: expected a mapping"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Grid.read(path)


VARY = {"vary": {"alpha": [0.5]}}


@pytest.mark.parametrize(
    "grid, message",
    [
        ({"varied": {}}, "'varied' is not understood. Expected tasks.*Did you mean 'vary'"),
        ({}, "nothing to compare with the reference"),
        ({"vary": {"alpha": []}}, r"vary, alpha: expected a list of values"),
        ({"vary": {"alpha": 0.5}}, r"vary, alpha: expected a list of values"),
        ({"vary": {"alhpa": [1]}}, "vary: PiToMeConfig has no field 'alhpa'.*'alpha'"),
        ({"vary": {"alpha": [-1]}}, "vary, alpha: alpha=-1 is out of range"),
        ({"grid": {"algorithm": ["tomme"]}}, "grid, algorithm=tomme: algorithm='tomme' is not known.*'tome'"),
        ({"settings": {"mine": {"energie": "elu"}}}, "settings, mine: PiToMeConfig has no field 'energie'"),
        ({"settings": {"mine": {"energy": "warm"}}}, "settings, mine: energy='warm' is not known"),
        ({"settings": {"mine": [0.9]}}, "settings, mine: expected a mapping"),
        ({"settings": {"dense": 0.9}}, "settings, dense: this is what tables call another row"),
        ({"settings": {"alpha=0.5": {"alpha": 0.7}}, **VARY}, "other settings that are called 'alpha=0.5'"),
        ({"reference": {"ratio": 0.9, "flops_ratio": 2}, **VARY}, "reference: .*each of them says how much merges"),
        (
            {"reference": {"base_model_name_or_path": "me/vit"}, **VARY},
            "base_model_name_or_path: this belongs to a file",
        ),
        ({"budgets": [{"alpha": 1}], **VARY}, "budgets, {'alpha': 1}: expected one of ratio"),
        ({"budgets": [{"flops_ratio": 0}], **VARY}, "reference: flops_ratio=0 is out of range"),
        ({"budgets": [{"ratio": 0.9}], "common": {"ratio": 0.8}, **VARY}, "common says how much merges"),
        ({"budgets": [0.9, 0.8], "vary": {"ratio": [0.7]}}, "vary, ratio says how much merges, and there are several"),
        ({"seeds": [-1], **VARY}, "seeds=-1"),
        ({"seeds": 3, **VARY}, "seeds: expected a list"),
        ({"tasks": {"a": 1}, **VARY}, "tasks: expected a list"),
        ({"tasks": [TASK, TASK], **VARY}, "tasks, entry 2: name='photos': expected a name that no other task has"),
    ],
)
def test_errors_say_where(grid, message):
    with pytest.raises(ValueError, match=message):
        Grid.of(grid)
