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

"""`examples/bench.sh`, the standard set of `make bench`: what it asks for exists."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from zoo import all_cases

from optimum_pitome import pitome_summary
from optimum_pitome.benchmarking.benchmark import Benchmark
from optimum_pitome.commands.benchmark import _Builder, _combinations
from optimum_pitome.commands.options import add_options


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LINES = re.findall(r"^    benchmark (\S.*)$", (EXAMPLES / "bench.sh").read_text(encoding="utf-8"), re.MULTILINE)
MODELS = sorted(path.parent.name for path in (EXAMPLES / "benchmark_models").glob("*/config.json"))


@pytest.mark.parametrize("line", [line for line in LINES if "$@" not in line])
def test_every_line_makes_combinations(line, monkeypatch):
    monkeypatch.chdir(EXAMPLES / "benchmark_models")
    parser = argparse.ArgumentParser()
    add_options(parser, "benchmark")
    args = parser.parse_args(["--flops-ratio", "1.8", *line.split()])
    device = "cuda" if "reduce-overhead" in line else "cpu"
    for model in args.models:
        found = _combinations(args, model)
        for combination in found:
            combination.check(device)
        assert len(found) == len(set(found)) > 0


@pytest.mark.parametrize("name", MODELS)
def test_every_model_merges(name, monkeypatch):
    monkeypatch.chdir(EXAMPLES / "benchmark_models")
    assert any(name in line.split() for line in LINES)
    parser = argparse.ArgumentParser()
    add_options(parser, "benchmark")
    ratio = 1.5 if "width" in name else 1.8
    args = parser.parse_args([name, "--flops-ratio", str(ratio)])
    (model_class,) = AutoConfig.from_pretrained(name).architectures
    if model_class not in {case.id for case in all_cases()}:
        pytest.skip(f"the installed transformers is too old for {model_class}")
    with torch.device("meta"):
        model = _Builder(args)(_combinations(args, name)[0])
    assert type(model).__name__ == model_class
    assert pitome_summary(model).flops_ratio == pytest.approx(ratio, rel=0.05)


def test_processor_time_is_for_processors():
    with pytest.raises(ValueError, match="works beside it"):
        Benchmark(lambda combination: None, device="meta", clock="cpu")


@pytest.mark.parametrize("gpu, chosen", [(True, "llava-7b"), (False, "llava-small")])
def test_the_script_calls_the_command(tmp_path, gpu, chosen):
    for name, text in (("python", f"exit {0 if gpu else 1}"), ("optimum-cli", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command = ["bash", EXAMPLES / "bench.sh", tmp_path, tmp_path / "out", "--clock", "cpu"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert any(chosen in line for line in lines) and len(lines) > 3
    for line in lines:
        assert line.startswith("pitome benchmark --flops-ratio 1.8 --device auto") and line.endswith(" --clock cpu")
        assert f"--output-dir {tmp_path / 'out'}" in line
