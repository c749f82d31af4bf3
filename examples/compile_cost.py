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

"""Processor time that `torch.compile` takes, dense and merged, the model as a whole and layer by layer.

    OMP_NUM_THREADS=1 python examples/compile_cost.py examples/benchmark_models/vit-small --layers 4 12

Every measurement has a process and an Inductor of its own, without any cache, on a model with random weights. It calls
the compiled model with three batch sizes: what the first call costs, and what the others add.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from optimum_pitome import apply_pitome
from optimum_pitome.benchmarking.inputs import example_inputs


#: What is compiled, and whether it is told that sizes change.
_FORMS = {"whole": None, "whole-dynamic": True, "layers": True}
_BATCH_SIZES = (2, 3, 5)


def processor_seconds() -> float:
    """Of this process and those that it started and that have ended: the compiler of C++ is one."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compiled(model: torch.nn.Module, form: str, backend: str) -> torch.nn.Module:
    """`model`, compiled as one of `_FORMS` says."""
    settings = {"dynamic": _FORMS[form], "backend": backend}
    if form != "layers":
        return torch.compile(model, **settings)
    blocks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    for layer in max(blocks, key=len):
        layer.compile(**settings)
    return model


def measure(path: str, num_layers: int, config: str | None, form: str, backend: str) -> dict[str, Any]:
    """Processor seconds of the first call, and of the calls after it with other batch sizes; and how many graphs."""
    model = AutoModel.from_config(AutoConfig.from_pretrained(path, num_hidden_layers=num_layers)).eval()
    if config is not None:
        apply_pitome(model, json.loads(config))
    batches = [example_inputs(model, batch_size) for batch_size in _BATCH_SIZES]
    model = compiled(model, form, backend)
    seconds = []
    with torch.no_grad():
        for inputs in batches:
            before = processor_seconds()
            model(**inputs)
            seconds.append(processor_seconds() - before)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"first": round(seconds[0], 1), "others": round(sum(seconds[1:]), 1), "graphs": graphs}


def in_a_process(arguments: argparse.Namespace, num_layers: int, config: str | None, form: str) -> dict[str, Any]:
    """[`measure`] in a process of its own, where nothing is compiled yet."""
    request = json.dumps([arguments.model, num_layers, config, form, arguments.backend])
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        command = [sys.executable, os.path.abspath(__file__), arguments.model, "--request", request]
        done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().split("\n")[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder of a model of transformers; its configuration alone is read")
    parser.add_argument("--layers", type=int, nargs="+", default=[4], help="numbers of layers")
    parser.add_argument("--pitome", default='{"ratio": 0.9}', help="settings of the merged model, as JSON")
    parser.add_argument("--forms", nargs="+", choices=_FORMS, default=list(_FORMS), help="what is compiled")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--request", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.request is not None:
        sys.stdout.write(json.dumps(measure(*json.loads(parsed.request))) + "\n")
        return
    sys.stdout.write("| layers | compiled | | first call | other batch sizes | graphs |\n|---|---|---|---|---|---|\n")
    for num_layers in parsed.layers:
        for form in parsed.forms:
            for name, config in (("dense", None), ("merged", parsed.pitome)):
                found = in_a_process(parsed, num_layers, config, form)
                cells = [f"{found['first']} s", f"{found['others']} s", found["graphs"]]
                sys.stdout.write(f"| {' | '.join(map(str, [num_layers, form, name, *cells]))} |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
