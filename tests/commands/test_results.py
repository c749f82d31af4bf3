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

"""What every command writes: results on stdout, as text or as JSON, everything else on stderr; and exit codes."""

import argparse
import errno
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pandas
import pytest
import yaml
from export.helpers import quick_format
from optimum.commands.register.register_pitome import PiToMeCommand
from transformers.utils import logging

from optimum_pitome import __version__
from optimum_pitome.analysis.plain import as_json
from optimum_pitome.analysis.report import whole_table
from optimum_pitome.commands import summary
from optimum_pitome.commands.results import Results, run_command
from optimum_pitome.configuration.checks import NotReachedError
from optimum_pitome.export import export as export_module


#: `serve` finds nothing: it runs until it is stopped.
COMMANDS = [command.name for command in PiToMeCommand.SUBCOMMANDS if command.name != "serve"]
DATA = ("--dataset", "reviews.csv", "--input-columns", "text", "--batch-size", 4, "--max-samples", 6)
#: A quick line of every command, beginning with what it is about; OUT stands for a new folder.
LINES = {
    "summary": ("bert", "--ratio", 0.7, "--sequence-length", 20),
    "evaluate": ("bert", *DATA, "--task", "feature-extraction", "--ratio", 0.7),
    "compare": ("grid.yaml", "-o", "OUT"),
    "tune": ("bert", *DATA, "--flops-ratio", 1.1, "--max-settings", 6, "--min-tokens", 2, "-o", "OUT"),
    "spectrum": ("bert", *DATA, "--ratio", 0.6, "--min-tokens", 1, "--algorithm", "tome"),
    "visualize": ("bert", "--text", "a a a b b b c c", "--ratio", 0.7, "--min-tokens", 1, "-o", "OUT"),
    "export": ("bert", "--format", "torch", "--ratio", 0.7, "-o", "OUT"),
    "benchmark": ("bert", "--batch-size", 1, "--rounds", 1, "--warmup", 0, "--sequence-length", 20),
}
TASK = {"name": "reviews", "task": "feature-extraction", "model": "bert", "dataset": "reviews.csv", "batch_size": 4}


@pytest.fixture
def run(optimum_cli, workplace, monkeypatch, tmp_path):
    """Runs the line of a command in the workplace, with a format of files that is quick to write."""
    monkeypatch.setitem(export_module.WRITERS, "torch", quick_format())
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workplace / "cache")
    grid = {"tasks": [{**TASK, "input_columns": ["text"], "max_samples": 6}], "settings": {"strong": 0.6}}
    (workplace / "grid.yaml").write_text(yaml.safe_dump(grid))

    def run(command, *options, **kwargs):
        line = [tmp_path / "out" if word == "OUT" else word for word in LINES[command]]
        return optimum_cli("pitome", command, *line, *options, **kwargs)

    return run


def documented(command):
    """The keys of its document: those that are always there, and the others."""
    text = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
    cell = re.search(rf"^\| `{command}` \| (.*) \|$", text, re.MULTILINE).group(1)
    always, _, sometimes = cell.partition(";")
    return [set(re.findall(r"`(\w+)`", part)) for part in (always, sometimes)]


@pytest.mark.parametrize("command", COMMANDS)
def test_one_json_document_and_silence(run, optimum_cli, command):
    before = logging.is_progress_bar_enabled(), warnings.filters[:]
    document = json.loads(run(command, "--json", "--quiet"))
    assert optimum_cli.errors == [""]
    assert (logging.is_progress_bar_enabled(), warnings.filters[:]) == before
    assert (document.pop("command"), document.pop("version")) == (command, __version__)
    assert document.pop("model", None) == (None if command in ("compare", "benchmark") else "bert")
    always, sometimes = documented(command)
    either = {"drawn", "texts"} if command == "visualize" else set()
    assert always - either <= document.keys() <= always | sometimes


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_leaves_results(run, optimum_cli, command):
    text = run(command, "--quiet")
    assert optimum_cli.errors == [""] and len(text) > 20 and not text.startswith("{")


def test_bars_and_notes_go_to_stderr(run, optimum_cli):
    json.loads(run("export", "--json"))
    json.loads(run("tune", "--json", "-o", "tuned"))
    json.loads(run("tune", "--json", "-o", "tuned"))
    exported, first, again = optimum_cli.errors
    assert "how far it is" in exported and "settings" in first and "Going on with 6 settings from tuned" in again


def test_numbers_have_all_their_digits(run):
    document = json.loads(run("summary", "--json"))
    (found,) = document["summaries"]
    (encoder,) = found["encoders"]
    assert encoder["tokens"] == [20, 16, 13] and found["gflops_dense"] == encoder["gflops_dense"]
    assert found["gflops_dense"] == sum(layer["gflops_dense"] for layer in encoder["layers"])
    assert 0 < found["gflops_dense"] < 1e-3 and found["given"] is None
    assert json.loads(as_json({"correlation": float("nan"), "folder": Path("a")})) == {
        "correlation": None,
        "folder": "a",
    }


def test_an_error_closes_the_bars_first(capsys, monkeypatch):
    def run(args, results):
        logging.tqdm(total=3, desc="rows").update()
        raise ValueError("no more")

    monkeypatch.setattr("optimum_pitome.commands.summary.run", run)
    with pytest.raises(SystemExit):
        run_command("summary", argparse.Namespace(json=False, quiet=False), argparse.ArgumentParser(prog="it"))
    bar, error = capsys.readouterr().err.splitlines()[-2:]
    assert "rows" in bar and error == "it: error: no more"


def test_lists_grow(capsys):
    results = Results("summary", as_json=True)
    results.add("for people", rows=[1], first=1)
    results.add(rows=[2, 3])
    results.finish()
    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == [1, 2, 3] and document["first"] == 1 and "people" not in str(document)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("ratio=2"), 2, "error: ratio=2"),
        (ImportError("cma is missing"), 2, "error: cma is missing"),
        (FileNotFoundError(errno.ENOENT, "No such file", "grid.yaml"), 2, "No such file"),
        (OSError("me/vit is not a model"), 2, "error: me/vit is not"),
        (NotReachedError("too far away"), 1, "error: too far away"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
        (ConnectionError("the network is gone"), 1, "the network is gone"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
        (KeyboardInterrupt("it goes on"), 130, "\nInterrupted: it goes on.\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("options", [(), ("--quiet", "--json")], ids=["", "quiet"])
def test_exit_codes(run, monkeypatch, error, code, message, options):
    def fail(args, results):
        results.add("half of it", half=1)
        raise error

    monkeypatch.setattr(summary, "run", fail)
    assert message in run("summary", *options, code=code)


@pytest.fixture
def unread():
    """The end of a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as end:
        yield end


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["", "json"])
def test_a_reader_that_went_away_ends_it_quietly(run, unread, monkeypatch, command, options):
    monkeypatch.setattr(sys, "stdout", unread)
    assert run(command, "--quiet", *options, code=141) == ""


def test_python_ends_quietly_then_too(workplace, unread):
    program = "from optimum.commands.optimum_cli import main; main()"
    line = [
        sys.executable,
        "-c",
        program,
        "pitome",
        *map(str, ("summary", workplace / LINES["summary"][0], "--quiet")),
    ]
    done = subprocess.run(line, stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_hub_that_cannot_be_asked(run, optimum_cli, monkeypatch, workplace):
    """The model is named, and the exit code says that it may work another time."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = optimum_cli("pitome", "summary", "nobody/has-this", "--ratio", 0.9, code=1)
    assert "nobody/has-this" in error and "There is no folder nobody/has-this here, either." in error
    error = optimum_cli("pitome", "benchmark", "bert", "nobody/has-this", "--ratio", 0.9, code=1)
    assert "There is no folder nobody/has-this here, either." in error
    line = ("evaluate", "bert", "--task", "feature-extraction", "--ratio", 0.7)
    error = optimum_cli("pitome", *line, "--dataset", "nobody/has-this-data", code=1)
    assert "nobody/has-this-data: there is no such file or folder here; and on the Hub: " in error
    assert "There is no folder" not in error  # the model is there


def test_a_folder_without_a_model(optimum_cli, workplace, tmp_path):
    (tmp_path / "docs").mkdir()
    error = optimum_cli("pitome", "summary", str(tmp_path / "docs"), "--ratio", 0.9, code=2)
    assert "docs holds no config.json: name one in which a model or a recipe was saved." in error


def test_a_table_is_whole_in_a_file_and_fits_a_terminal(run, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [line for line in run("evaluate").splitlines() if line.startswith(("dense ", "0.7 "))]
    assert len(rows) == 2 and min(map(len, rows)) > 100
    # In a terminal the columns go on below.
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("evaluate").splitlines()
    table = lines[: lines.index("")] if "" in lines else lines
    assert max(map(len, table)) <= 80 and sum(line.startswith("0.7 ") for line in lines) > 1


@pytest.mark.parametrize("command", ["benchmark", "spectrum"])
def test_reports_fit_the_columns_that_there_are(run, monkeypatch, command):
    """A row keeps its name where its columns go on below; only columns that are there are explained."""
    monkeypatch.setenv("COLUMNS", "100")
    settings = [json.dumps({"algorithm": name, "importance": 0.5}) for name in ("tome", "pitome", "random", "tofu")]
    lines = run(command, *(["--settings", *settings] if command == "spectrum" else [])).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith(("bert ", "0 ")) for line in lines) > (1 if command == "benchmark" else 2)
    assert command != "benchmark" or "quartiles. Fewer operations" in " ".join(lines) and "cosine" not in lines[-1]


def test_long_words_of_a_table_are_not_cut():
    settings = "a name of settings that is longer than sixty characters, as some are, " + "x" * 40
    assert settings in whole_table(pandas.DataFrame({"settings": [settings]}))
