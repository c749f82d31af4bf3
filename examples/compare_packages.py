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

"""Times another package's way of merging tokens beside this one, in one run: dense, this package, and the other one
alternate on the same pictures.

It fetches nothing and knows no other package. Whoever has installed one writes a function that takes the configuration
of a ViT and returns a module that takes `pixel_values`, and names it:

    python examples/compare_packages.py examples/benchmark_models/vit-base --other my_module:make --batch-size 8

docs/performance.md shows such a function. Weights are random: they change no time, and nothing is said of accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from optimum_pitome import apply_pitome, pitome_disabled
from optimum_pitome.analysis.timing import AlternatingTimer, Timing
from optimum_pitome.benchmarking.costs import count_operations
from optimum_pitome.benchmarking.inputs import example_inputs
from optimum_pitome.benchmarking.machine import device_of


def imported(name: str) -> Callable[[Any], torch.nn.Module]:
    """The function that `module:function` names; modules in the working directory count.

    Raises:
        SystemExit: if there is none, with the reason.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SystemExit(
            f"--other {name}: {error}. Expected module:function, of a module that can be imported."
        ) from None


def compare(
    config: Any,
    make_other: Callable[[Any], torch.nn.Module],
    settings: dict,
    batch_size: int,
    rounds: int,
    device: str,
) -> dict[str, tuple[list[float], float]]:
    """Seconds of every round, and 10**9 multiply-adds per sample, of `dense`, `ours` and `other`."""
    place = device_of(device)
    torch.manual_seed(0)
    ours = apply_pitome(AutoModel.from_config(config).eval(), settings).to(place)
    other = make_other(config).eval().to(place)
    batches = {size: example_inputs(ours, size)["pixel_values"].to(place) for size in (1, batch_size)}
    models = {"dense": ours, "ours": ours, "other": other}
    contexts = [lambda: pitome_disabled(ours), contextlib.nullcontext, contextlib.nullcontext]
    timer = AlternatingTimer(contexts, warmup=2, device=place)
    for _ in range(rounds):
        timer.run(*(lambda model=model: model(batches[batch_size]) for model in models.values()))
    found = {}
    for name, model, context, seconds in zip(models, models.values(), contexts, timer.seconds):
        with context():
            found[name] = seconds, count_operations(lambda model=model: model(batches[1]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Folder or Hub id with the configuration of a ViT.")
    parser.add_argument("--other", required=True, metavar="MODULE:FUNCTION", help="Makes the other package's model.")
    parser.add_argument("--flops-ratio", type=float, default=1.8, help="Of this package (1.8).")
    parser.add_argument("--algorithm", default="pitome", help="Of this package (pitome; tome is ToMe's matching).")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    settings = {"flops_ratio": args.flops_ratio, "algorithm": args.algorithm}
    config = AutoConfig.from_pretrained(args.model)
    found = compare(config, imported(args.other), settings, args.batch_size, args.rounds, args.device)
    dense_seconds, dense_operations = found["dense"]
    sys.stdout.write(f"{'':8}{'ms':>10}{'speed-up':>10}{'fewer':>8}{'realised':>10}  quartiles of the speed-up\n")
    for name, (seconds, operations) in found.items():
        timing, fewer = Timing.of(dense_seconds, seconds), dense_operations / operations
        numbers = f"{1e3 * statistics.median(seconds):10.4g}{timing.speedup:9.2f}x{fewer:7.2f}x"
        quartiles = f"{timing.speedup_low:.2f} to {timing.speedup_high:.2f}"
        sys.stdout.write(f"{name:8}{numbers}{timing.speedup / fewer:10.2f}  {quartiles}\n")


if __name__ == "__main__":
    main()
