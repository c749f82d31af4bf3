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

"""The example that embeds data sets of any size: nothing is lost and nothing is there twice, whatever is killed, and
whoever goes on."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import embed_dataset
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from example_runs import run_here
from PIL import Image
from tiny_processors import WORDS, tokenizer
from training.tiny import needs_image_processors, tiny_vit
from transformers import AutoModel, BertConfig, BertModel, ViTImageProcessorPil
from zoo.text import SIZES

from optimum_pitome.evaluation.judges import EmbeddingJudge


ROOT = Path(__file__).parents[1]
NUMBER = 60
BROKEN = {"p07.png": b"no picture", "p31.png": b""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ViT and a BERT, a folder of pictures two of which are broken, and three files of texts."""
    root, generator = tmp_path_factory.mktemp("embedded"), np.random.default_rng(0)
    tiny_vit().vit.save_pretrained(root / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES)).save_pretrained(root / "bert")
    tokenizer().save_pretrained(root / "bert")
    for name in ("pictures", "texts"):
        (root / name).mkdir()
    for index in range(NUMBER):
        pixels = generator.integers(0, 255, (36, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"p{index:02d}.png")
    for name, content in BROKEN.items():
        (root / "pictures" / name).write_bytes(content)
    for index in range(3):
        lines = [" ".join(generator.choice(WORDS, 2 + (7 * line + index) % 11)) for line in range(7)]
        (root / "texts" / f"{index}.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def arguments(folder, kind, output, *more):
    model = {"pictures": "vit", "texts": "bert"}[kind]
    given = [folder / model, "--dataset", folder / kind, "--ratio", 0.8, "--batch-size", 4, "-o", output, *more]
    return [str(part) for part in given]


def start(command, *more):
    """The script in processes of its own, which can be killed together."""
    launch = [sys.executable, *more, embed_dataset.__file__, *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(launch, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def rows_of(output):
    return [row for file in sorted(output.glob("data/*.parquet")) for row in pq.read_table(file).to_pylist()]


def report_of(output):
    return json.loads((output / "report.json").read_text())


def assert_complete(folder, output):
    """Every picture once, in the order of the folder, as the model embeds it alone; and what was skipped."""
    rows, names = rows_of(output), sorted({f"p{index:02d}.png" for index in range(NUMBER)} - BROKEN.keys())
    assert [Path(row["name"]).name for row in rows] == names
    assert [row["row"] for row in rows] == [int(name[1:3]) for name in names]
    model = AutoModel.from_pretrained(folder / "vit", pitome=0.8, add_pooling_layer=False)
    pixels = ViTImageProcessorPil.from_pretrained(folder / "vit")([Image.open(row["name"]) for row in rows])
    with torch.no_grad():
        expected = EmbeddingJudge(model).answer({"pixel_values": torch.tensor(np.array(pixels["pixel_values"]))})
    torch.testing.assert_close(torch.tensor([row["embedding"] for row in rows]), torch.stack(expected))
    skipped = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert [Path(entry["name"]).name for entry in skipped] == list(BROKEN)
    assert all(entry["reason"].startswith("UnidentifiedImageError: ") for entry in skipped)
    found = report_of(output)
    assert (found["rows"], found["skipped"]) == (NUMBER - len(BROKEN), len(BROKEN))


@needs_image_processors
def test_a_folder_of_pictures(folder, tmp_path, monkeypatch, capsys):
    command = arguments(folder, "pictures", tmp_path, "--rows-per-file", 16, "--report-samples", 24)
    run_here(monkeypatch, embed_dataset, *command)
    assert_complete(folder, tmp_path)
    files = sorted((tmp_path / "data").iterdir())
    assert [file.name for file in files] == [f"00000-{number:07d}.parquet" for number in range(4)]
    sample = report_of(tmp_path)["sample"]
    assert sample["samples"] in (22, 23, 24) and 0.3 < sample["nearest_kept"] <= 1 and sample["flops_ratio"] > 1.2
    assert min(sample["rows_per_second_dense"], sample["rows_per_second_merged"]) > 0
    assert "58 embeddings in 4 files" in capsys.readouterr().out
    # The same command has nothing to do; after a file was lost, that one.
    before = [file.stat().st_mtime_ns for file in files]
    files[2].unlink()
    run_here(monkeypatch, embed_dataset, *command)
    assert_complete(folder, tmp_path)
    assert [now == was for now, was in zip((file.stat().st_mtime_ns for file in files), before)] == [1, 1, 0, 1]
    # What is there stays what it says it is.
    with pytest.raises(SystemExit):
        run_here(monkeypatch, embed_dataset, *command, "--ratio", "0.9")
    assert "was begun with ratio: 0.8, and not 0.9. Name another folder" in capsys.readouterr().err
    assert_complete(folder, tmp_path)


@needs_image_processors
def test_a_killed_run_goes_on_in_two_processes(folder, tmp_path):
    command = arguments(folder, "pictures", tmp_path, "--rows-per-file", 1, "--report-samples", 0)
    killed = start(command)
    while len(list(tmp_path.glob("data/*.parquet"))) < 5:
        assert killed.poll() is None, killed.stderr.read()[-3000:]
        time.sleep(0.001)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    there = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*.parquet")}
    assert 5 <= len(there) < NUMBER and not (tmp_path / "report.json").exists()
    (tmp_path / "data" / f"00000-{NUMBER - 1:07d}.partial").write_bytes(b"PAR1 and no more")
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    finish(start([*command, "--workers", "1"], *launcher))
    assert_complete(folder, tmp_path)
    assert report_of(tmp_path)["processes"] == 2 and not list(tmp_path.rglob("*.partial"))
    assert all(file.stat().st_mtime_ns == made for file, made in there.items())
    assert len(list((tmp_path / "empty").iterdir())) == len(BROKEN)  # `datasets` cannot read a file without rows
    assert len(load_dataset(str(tmp_path / "data"), split="train")) == NUMBER - len(BROKEN)


@needs_image_processors
def test_ray_finishes_what_was_begun(folder, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the engine needs it")
    command = arguments(folder, "pictures", tmp_path, "--rows-per-file", 8, "--report-samples", 0)
    run_here(monkeypatch, embed_dataset, *command)
    files = sorted((tmp_path / "data").iterdir())
    for file in files[2:]:
        file.unlink()
    (tmp_path / "report.json").unlink()
    made = [file.stat().st_mtime_ns for file in files[:2]]
    finish(start([*command, "--engine", "ray"]))
    assert_complete(folder, tmp_path)
    assert [file.stat().st_mtime_ns for file in files[:2]] == made


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_a_stream_of_texts(folder, tmp_path, monkeypatch, processes):
    """In fewer processes than there are files, and in more; the processes one after the other."""
    command = arguments(folder, "texts", tmp_path, "--rows-per-file", 3, "--streaming", "--keep", "text")
    work = embed_dataset.Source.work
    monkeypatch.setattr(embed_dataset, "report", lambda *args: None)
    for process in range(processes):
        monkeypatch.setattr(embed_dataset.Source, "work", lambda self, *args: work(self, process, processes))
        run_here(monkeypatch, embed_dataset, *command)
    rows = rows_of(tmp_path)
    files = [(folder / "texts" / f"{index}.txt").read_text().splitlines() for index in range(3)]
    assert [row["text"] for row in rows] == [text for texts in files for text in texts]
    assert [(row["shard"], row["row"]) for row in rows] == [(shard, row) for shard in range(3) for row in range(7)]
    assert len(list((tmp_path / "data").iterdir())) == 9
    model, encode = AutoModel.from_pretrained(folder / "bert", pitome=0.8, add_pooling_layer=False), tokenizer()
    with torch.no_grad():
        for row in rows[:7]:
            inputs = encode(row["text"], truncation=True, max_length=16, return_tensors="pt")
            torch.testing.assert_close(torch.tensor(row["embedding"]), EmbeddingJudge(model).answer(inputs)[0])


def test_a_full_disk(folder, tmp_path, monkeypatch, capsys):
    """The message says so, nothing is half written, and what fitted stays."""
    command = arguments(folder, "texts", tmp_path, "--rows-per-file", 7, "--report-samples", 0)
    write_table = pq.write_table

    def fail(table, path):
        if path.name.endswith("1.partial"):
            path.write_bytes(b"PAR1")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, path)

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(SystemExit):
        run_here(monkeypatch, embed_dataset, *command)
    assert "No space left on device" in capsys.readouterr().err and len(rows_of(tmp_path)) == 7
    monkeypatch.setattr(pq, "write_table", write_table)
    run_here(monkeypatch, embed_dataset, *command)
    assert [row["row"] for row in rows_of(tmp_path)] == list(range(21))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--keep", "label"], "--keep label: the data has no such column, but text."),
        (["--input-columns", "title"], "column 'title' does not exist: expected one of text"),
        (["--streaming", "--max-samples", "3"], "--max-samples chooses at random, which a stream cannot"),
        (["--split", "test"], "split 'test': expected one of train"),
        (["--layers", "9"], "layers=[9]: the model has"),
    ],
)
def test_bad_requests_leave_no_embeddings(folder, tmp_path, monkeypatch, capsys, more, message):
    with pytest.raises(SystemExit):
        run_here(monkeypatch, embed_dataset, *arguments(folder, "texts", tmp_path / "out", *more))
    assert message in capsys.readouterr().err and not list(tmp_path.rglob("*.parquet"))
