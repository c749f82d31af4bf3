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

"""Settings compared on the same samples: rows, resuming, and what is called a difference."""

import json

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification, ViTModel
from zoo.vit import vit_config

from optimum_pitome import apply_pitome, compare, evaluate, remove_pitome
from optimum_pitome.evaluation.comparison import ComparedTask, compare_tasks
from optimum_pitome.evaluation.comparison_report import Comparison
from optimum_pitome.evaluation.grid import Grid
from optimum_pitome.evaluation.judges import ClassJudge, RetrievalJudge


GRID = {
    "common": {"ratio": 0.6},
    "settings": {"mild": {"ratio": 0.95}, "again": {"algorithm": "pitome"}},
    "vary": {"algorithm": ["tome", "random"]},
    "seeds": [0, 1],
}
NAMES = ["dense", "reference", "mild", "again", "algorithm=tome", "algorithm=random"]


def lively(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def model():
    return lively(ViTForImageClassification(vit_config()))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(8, 3, 32, 32, generator=generator) for _ in range(3)]
    return [{"pixel_values": image, "labels": torch.arange(8) % 3} for image in images]


def test_every_row_is_what_evaluate_says(model, batches):
    found = compare(model, batches, GRID, name="noise", progress=False)
    assert [entry.name for entry in found.entries] == NAMES and not hasattr(model.config, "pitome")
    rows = {entry.name: entry for entry in found.entries}
    for name, settings in (("mild", 0.95), ("algorithm=tome", {"ratio": 0.6, "algorithm": "tome"})):
        (one,) = evaluate(model, batches, ratios=settings, progress=False)
        assert rows[name].value == pytest.approx(one.merged) and rows["dense"].value == pytest.approx(one.dense)
        assert rows[name].gflops == one.gflops_merged and rows[name].flops_ratio == pytest.approx(one.flops_ratio)
        assert rows["dense"].gflops == one.gflops_dense and rows[name].tokens_left == one.tokens_left
    seeds = [
        evaluate(model, batches, ratios={"ratio": 0.6, "algorithm": "random", "random_seed": seed}, progress=False)[0]
        for seed in (0, 1)
    ]
    assert rows["algorithm=random"].seed_values == pytest.approx([one.merged["accuracy"] for one in seeds])
    assert rows["algorithm=random"].value["accuracy"] == pytest.approx(np.mean(rows["algorithm=random"].seed_values))
    assert rows["algorithm=random"].seeds == [0, 1]
    # What resolves to the reference's settings needs no test, and does not count as a comparison.
    assert (rows["again"].verdict, rows["again"].p, rows["again"].value) == ("the same", None, rows["reference"].value)
    assert sum(entry.p is not None for entry in found.entries) == 3


def test_measures(model, batches):
    found = compare(model, batches, GRID, measures=["accuracy", "agreement"], progress=False)
    by = {(entry.measure, entry.name): entry for entry in found.entries}
    assert ("agreement", "dense") not in by and len(found.entries) == 2 * len(NAMES) - 1
    (one,) = evaluate(model, batches, ratios=0.95, progress=False)
    assert by["agreement", "mild"].value == pytest.approx(one.agreement)
    assert by["agreement", "mild"].title == "same answer as dense"
    with pytest.raises(ValueError, match="measures: 'recall' is not measured here. Expected some of accuracy, agree"):
        compare(model, batches, GRID, measures=["recall"], progress=False)
    # Without labels, or a head, settings are compared by agreement.
    bare = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    titles = {"same answer as dense": model, "10 nearest kept": lively(ViTModel(vit_config()))}
    for title, dense in titles.items():
        assert compare(dense, bare, GRID, progress=False).entries[0].title == title
    assert set(ClassJudge.compared) <= set(ClassJudge.metrics)
    assert set(RetrievalJudge.compared) <= set(RetrievalJudge.metrics)


class Stop(Exception):
    pass


class Counting(list):
    """Batches that count how often they are read, and break off after so many times."""

    def __init__(self, batches, limit=None):
        super().__init__(batches)
        self.reads, self.limit = 0, limit

    def __iter__(self):
        self.reads += 1
        for number, batch in enumerate(list.__iter__(self)):
            if self.limit is not None and self.reads > self.limit and number == 1:
                raise Stop
            yield batch


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_an_interrupted_comparison_goes_on(model, batches, tmp_path, done):
    whole = compare(model, batches, GRID, progress=False)
    path = tmp_path / "folder" / "rows.jsonl"
    with pytest.raises(Stop):
        compare(model, Counting(batches, done), GRID, path=path, progress=False)
    assert not hasattr(model.config, "pitome")
    lines = path.read_text().splitlines() if path.exists() else []
    # Each read but the dense one is a row; "again" is a copy of the reference's.
    assert len(lines) == (0 if done == 0 else done if done < 3 else done + 1)
    if lines:  # the process was killed while it wrote the next
        path.write_text(path.read_text() + lines[-1][:50])
    again = Counting(batches)
    assert compare(model, again, GRID, path=path, progress=False) == whole
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 7 and path.read_text().splitlines()[: len(lines)] == lines
    assert again.reads == 6 - (max(done, 1) - 1)
    # All there: nothing is run.
    last = Counting(batches)
    assert compare(model, last, GRID, path=path, progress=False) == whole and last.reads == 0


def test_a_grid_that_grows_measures_what_is_new(model, batches, tmp_path):
    compare(model, batches, GRID, path=tmp_path / "rows", progress=False)
    more, data = {**GRID, "vary": {"algorithm": ["tome", "random", "tofu"]}}, Counting(batches)
    found = compare(model, data, more, path=tmp_path / "rows", progress=False)
    assert data.reads == 2 and [entry.name for entry in found.entries] == [*NAMES, "algorithm=tofu"]
    smaller = compare(model, data, {**GRID, "settings": {}, "seeds": [1]}, path=tmp_path / "rows", progress=False)
    assert data.reads == 2 and smaller.entries[-1].seeds == [1]
    with pytest.raises(ValueError, match="rows are of 16 and 24 samples: the data must have changed"):
        compare(model, batches[:2], {**GRID, "settings": {"other": 0.7}}, path=tmp_path / "rows", progress=False)


def test_a_task_is_loaded_where_rows_are_missing(model, batches, tmp_path):
    loaded = []

    def task(name):
        def load():
            loaded.append(name)
            return model, batches, None

        return ComparedTask(name, load, {"data": name})

    grid = Grid.of(GRID)
    compare_tasks([task("first")], grid, tmp_path / "rows", progress=False)
    found = compare_tasks([task("first"), task("second")], grid, tmp_path / "rows", progress=False)
    assert loaded == ["first", "second"] and {entry.task for entry in found.entries} == {"first", "second"}
    assert sum(entry.p is not None for entry in found.entries) == 6


def rows_of(scores, **more):
    """Rows as measured, with these scores."""
    row = {"settings": {"ratio": 0.9}, "gflops_dense": 2.0, "gflops_merged": 1.0, "tokens_left": [3], **more}
    return {**row, "scores": {}, "compared": [], "agreement_title": "kept", "agreement": list(map(float, scores))}


def compared(reference, *others):
    """The entries of a comparison that measured these scores."""
    grid = Grid.of({"settings": {f"s{index}": {"alpha": 0.1 * index} for index in range(len(others))}})
    rows = [rows_of([]), *(rows_of(one, resolved=str(index)) for index, one in enumerate((reference, *others)))]
    return Comparison.of({"task": None}, grid, {"task": rows}).entries


def test_noise_is_no_win_and_a_real_difference_is_one():
    generator = np.random.default_rng(0)
    reference = generator.random(200).round(1)
    noise = [(reference + generator.normal(0, 0.1, 200)).clip(0, 1).round(1) for _ in range(40)]
    better, worse = (reference + 0.03).clip(0, 1), (reference - 0.03).clip(0, 1)
    found = compared(reference, *noise, better, worse)
    assert [one.verdict for one in found[1:]] == ["no difference shown"] * 40 + ["better", "worse"]
    # Without the correction, some of forty would have been called differences.
    assert any(one.p < 0.05 <= one.p_corrected for one in found[1:])
    assert found[-2].difference["agreement_low"] > 0 > found[-1].difference["agreement_high"]


def test_pairing_by_hand():
    """Of 100 samples, the second setting loses 8 and wins none: 2 / 2**8, twice that for two comparisons."""
    reference = [1] * 90 + [0] * 10
    found = compared(reference, [1] * 82 + [0] * 18, [1] * 89 + [0] * 10 + [1])
    assert found[1].p == pytest.approx(2 / 2**8) and found[1].p_corrected == pytest.approx(4 / 2**8)
    assert found[1].difference["agreement"] == pytest.approx(-0.08) and found[1].verdict == "worse"
    # As many right, but others: one lost, one won.
    assert found[2].p == found[2].p_corrected == 1.0 and found[2].verdict == "no difference shown"
    assert found[1].test == "McNemar's exact test"
    # Where all samples are swapped the shares stay what they are, and the pairs say how little that tells.
    shuffled = compared(reference, [0] * 10 + [1] * 90)[1]
    assert shuffled.value == found[0].value and shuffled.p == 1.0


def test_tables_and_files(model, batches, tmp_path):
    found = compare(
        model,
        batches,
        {**GRID, "common": {}, "budgets": [{"ratio": 0.6}], "settings": {}},
        name="noise",
        progress=False,
    )
    text = str(found)
    assert "noise, ratio=0.6: accuracy, 24 samples" in text and "corrected for 2 comparisons (Holm)" in text
    assert "x fewer)" in text and "2: " in text  # seeds
    markdown = found.to_markdown()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 and {line.count("|") for line in lines} == {9}
    found.to_json(tmp_path / "new" / "report.json")
    kept = json.loads((tmp_path / "new" / "report.json").read_text())
    assert [entry["name"] for entry in kept["entries"]] == [entry.name for entry in found.entries]
    assert kept["entries"][2]["settings"] == {"format_version": "1.2", "ratio": 0.6, "algorithm": "tome"}
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_model_comes_back_as_it_was(model, batches):
    apply_pitome(model, 0.7).train().vit.layers[0].eval()  # frozen
    compare(model, batches, GRID, progress=False)
    assert model.training and not model.vit.layers[0].training and model.config.pitome["ratio"] == 0.7
    remove_pitome(model)
    with pytest.raises(ValueError, match=r"deep, on noise: layers=\[9\]: the model has"):
        compare(model, batches, {"settings": {"deep": {"layers": [9]}}}, name="noise", progress=False)
    assert not hasattr(model.config, "pitome")
    with pytest.raises(ValueError, match="data can be read once only"):
        compare(model, iter(batches), GRID)


def test_a_file_of_something_else(model, batches, tmp_path):
    (tmp_path / "rows").write_text('{"key": "a"}\nnotes\n')
    with pytest.raises(ValueError, match="rows, line 2: this is not a row of a comparison"):
        compare(model, batches, GRID, path=tmp_path / "rows", progress=False)
    assert (tmp_path / "rows").read_text() == '{"key": "a"}\nnotes\n'
    (tmp_path / "rows").write_text('{"search": "a"}\n')
    with pytest.raises(ValueError, match="rows, line 1: this is not a row of a comparison"):
        compare(model, batches, GRID, path=tmp_path / "rows", progress=False)
