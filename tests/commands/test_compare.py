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

"""`optimum-cli pitome compare`, on tiny models and data on disk."""

import argparse
import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError

from optimum_pitome.commands import compare as command
from optimum_pitome.evaluation import comparison
from optimum_pitome.evaluation.grid import Grid


REVIEWS = {
    "name": "reviews",
    "task": "text-classification",
    "model": "bert",
    "dataset": "reviews.csv",
    "batch_size": 4,
}
PAIRS = {"task": "feature-extraction", "model": "bert", "dataset": "pairs", "input_columns": ["first", "second"]}
GRID = {
    "tasks": [{**REVIEWS, "batch_size": 4}, {**PAIRS, "max_samples": 8}],
    "budgets": [{"ratio": 0.6}],
    "common": {"min_tokens": 1},
    "vary": {"algorithm": ["tome", "random"]},
    "settings": {"paper": {"energy": "paper"}},
}


@pytest.fixture
def compare(optimum_cli, workplace, monkeypatch, tmp_path):
    """Runs the command on a grid, in the workplace."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workplace / "cache")

    def run(grid, *args, **kwargs):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
        return optimum_cli("pitome", "compare", tmp_path / "grid.yaml", "-o", tmp_path / "out", *args, **kwargs)

    return run


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]


def test_two_tasks_and_the_report(compare, tmp_path, monkeypatch):
    text = compare(GRID)
    assert "reviews, ratio=0.6: accuracy, 12 samples" in text
    assert "pairs, ratio=0.6: 10 nearest kept, 8 samples" in text
    assert "corrected for 6 comparisons (Holm)" in text and "x fewer)" in text
    assert [row["name"] for row in rows(tmp_path)] == 2 * [
        "dense",
        "reference",
        "paper",
        "algorithm=tome",
        "algorithm=random",
    ]
    assert all(len(row["agreement"]) == row["num_samples"] for row in rows(tmp_path) if row["name"] != "dense")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {entry["verdict"] for entry in report["entries"] if entry["difference"]} == {"no difference shown"}
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "## reviews, ratio=0.6: accuracy" in markdown and "(report.png)" in markdown
    assert (tmp_path / "out" / "report.png").stat().st_size > 1000
    # The same again runs nothing; other samples are other rows.
    monkeypatch.setattr(comparison, "_Measuring", None)
    before = rows(tmp_path)
    assert compare(GRID) == text and rows(tmp_path) == before
    monkeypatch.undo()


def test_options_for_all_tasks(compare, tmp_path):
    text = compare(GRID, "--max-samples", 6, "--batch-size", 3, "--dtype", "float32", "--seed", 4, 5)
    assert text.count("6 samples") == 2 and "seeds" in text
    seeds = [
        (row["seed"], row["settings"]["random_seed"]) for row in rows(tmp_path) if row["name"] == "algorithm=random"
    ]
    assert seeds == 2 * [(4, 4), (5, 5)]


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_pictures_and_a_home_folder(compare, monkeypatch, workplace):
    monkeypatch.setenv("HOME", str(workplace))
    monkeypatch.setenv("PETS", "pets")
    task = {"name": "pets", "task": "image-classification", "model": "~/vit", "dataset": "$PETS"}
    text = compare({"tasks": [{**task, "measures": ["accuracy", "agreement"]}], "settings": {"strong": 0.5}})
    assert "pets: accuracy, 12 samples" in text and "pets: same answer as dense, 12 samples" in text


def test_an_interrupt_says_how_to_go_on(compare, tmp_path, monkeypatch):
    measured = comparison._Measuring._row

    def row(self, variant, *args):
        if variant.name == "algorithm=tome":
            raise KeyboardInterrupt
        return measured(self, variant, *args)

    with monkeypatch.context() as patch:
        patch.setattr(comparison._Measuring, "_row", row)
        assert "the same command goes on from" in compare(GRID, code=130)
    assert [row["name"] for row in rows(tmp_path)] == ["dense", "reference", "paper"]
    assert "corrected for 6 comparisons" in compare(GRID) and len(rows(tmp_path)) == 10


def changed(**changes):
    return {**GRID, "tasks": [{**REVIEWS, **changes}]}


@pytest.mark.parametrize(
    "grid, message",
    [
        ({**GRID, "vary": {"algorithm": ["tomme"]}}, "grid.yaml: vary, algorithm: algorithm='tomme' is not known"),
        ({**GRID, "settings": {"deep": {"layers": [5]}}}, "deep, on reviews: layers=[5]"),
        ({**GRID, "budgets": [{"flops_ratio": 50}]}, "flops_ratio=50, reference, on reviews: "),
        ({**GRID, "tasks": []}, "grid.yaml: tasks: expected a list"),
        (changed(modle="bert"), "tasks, reviews: 'modle' is not understood"),
        (changed(task="translation"), "tasks, reviews: argument task: invalid choice: 'translation'"),
        (changed(model=None), "tasks, reviews: missing: model"),
        (changed(batch_size="many"), "tasks, reviews: argument batch-size: invalid int value: 'many'"),
        (changed(batch_size=0), "tasks, reviews: --batch-size 0: expected at least 1"),
        (changed(dtype="float33"), "tasks, reviews: --dtype float33: expected auto"),
        (changed(measures=["recall"]), "tasks, reviews: measures: 'recall': expected some of accuracy, agreement"),
        (changed(model="$NOWHERE/bert"), "tasks, reviews: $NOWHERE/bert: this variable is not set"),
        ({**GRID, "tasks": REVIEWS}, "tasks: expected a list of entries, such as - name: "),
        (changed(task="visual-question-answering"), "AutoModelForImageTextToText knows no model of type 'bert'"),
    ],
)
def test_errors_come_before_any_weights_or_data(compare, tmp_path, monkeypatch, grid, message):
    def read(*args):
        raise AssertionError("data was read")

    monkeypatch.setattr(command, "read_data", read)
    assert message in compare(grid, code=2) and not (tmp_path / "out").exists()


def test_errors_of_files(compare, optimum_cli, tmp_path):
    error = optimum_cli("pitome", "compare", tmp_path / "none.yaml", "-o", tmp_path, code=2)
    assert f"GRID.yaml {tmp_path / 'none.yaml'}: there is no such file" in error
    assert "column 'none' does not exist" in compare(changed(input_columns=["none"]), code=2)


def test_the_data_of_all_tasks_are_there_before_the_first_begins(compare, tmp_path):
    for dataset in ("./nowhere", "nowhere.csv"):
        grid = {**GRID, "tasks": [REVIEWS, {**PAIRS, "dataset": dataset}]}
        error = compare(grid, code=2)
        assert f"tasks, {Path(dataset).stem}: {dataset}: there is no such file or folder" in error
    error = compare({**GRID, "tasks": [REVIEWS, {**PAIRS, "input_columns": ["third"]}]}, code=2)
    assert "tasks, pairs: column 'third' does not exist" in error and not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_named_with_its_task(compare, monkeypatch):
    def nothing(name, **kwargs):
        raise OSError("there is no such repository") from LocalEntryNotFoundError("offline")

    monkeypatch.setattr("optimum_pitome.commands.tasks.AutoConfig.from_pretrained", nothing)
    error = compare(changed(model="nomodel"), code=1)
    assert "grid.yaml: tasks, reviews: nomodel: there is no such repository" in error
    assert "There is no folder nomodel here, either" in error


def test_classes_that_do_not_fit_name_the_task(compare, workplace):
    (workplace / "odd.csv").write_text("text,label\na b c,red\nb c d,blue\n")
    error = compare({**GRID, "tasks": [REVIEWS, {**REVIEWS, "name": "odd", "dataset": "odd.csv"}]}, code=2)
    assert "tasks, odd: The classes of the data (blue, red) are not those" in error


GRIDS = sorted((Path(__file__).parents[2] / "examples" / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_example_grids_are_understood(path, monkeypatch):
    monkeypatch.setenv("MINILM", "minilm")
    monkeypatch.setattr(command, "check_model", lambda name: None)  # models that other examples make
    arguments = argparse.Namespace(max_samples=None, batch_size=None, device=None, dtype=None)
    grid = Grid.read(path)
    assert len(grid.variants) > 5
    for entry in grid.tasks:
        assert command._task(entry, arguments, path.name).task == entry["task"]


def test_the_grid_of_the_documentation_is_understood(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text()
    (tmp_path / "grid.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    grid = Grid.read(tmp_path / "grid.yaml")
    assert [task["name"] for task in grid.tasks] == ["photos", "texts"]
    # Per budget: the reference, two by name, two alphas, two algorithms (one with three seeds), four of the grid.
    assert len(grid.variants) == 2 * (1 + 2 + 2 + 1 + 3 + 4)
