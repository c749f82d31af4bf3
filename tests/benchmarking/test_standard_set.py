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
    args = parser.parse_args([*line.split(), "--flops-ratio", "1.8"])
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
    args = parser.parse_args([name, "--flops-ratio", "1.8"])
    (model_class,) = AutoConfig.from_pretrained(name).architectures
    if model_class not in {case.id for case in all_cases()}:
        pytest.skip(f"the installed transformers is too old for {model_class}")
    with torch.device("meta"):
        model = _Builder(args)(_combinations(args, name)[0])
    assert type(model).__name__ == model_class
    assert pitome_summary(model).flops_ratio == pytest.approx(1.8, rel=0.05)


def test_processor_time_is_for_processors():
    with pytest.raises(ValueError, match="works beside it"):
        Benchmark(lambda combination: None, device="meta", clock="cpu")
