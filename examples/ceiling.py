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

"""What merging could gain at most on this machine: a ViT that only cuts its tokens off, to the lengths that merging
gives them, beside the same model merged and dense. The cut is a view, so that it costs nothing:

    OMP_NUM_THREADS=1 python examples/ceiling.py examples/benchmark_models/vit-small --flops-ratio 1.8 --clock cpu

With `--runtime onnx` or `openvino`, all three are exported, and their files are timed. Weights are random: they change
no time. What the cut model computes means nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from transformers import AutoConfig, AutoModel

from optimum_pitome import apply_pitome, pitome_disabled, pitome_summary
from optimum_pitome.analysis.timing import AlternatingTimer, Timing
from optimum_pitome.benchmarking.inputs import example_inputs
from optimum_pitome.export.runtimes import ExportedFiles


def cut(model: torch.nn.Module) -> torch.nn.Module:
    """Lets the layers of a rewritten `model`, where it is run dense, cut tokens off between attention and MLP."""
    encoder = next(module for module in model.modules() if getattr(module, "pitome", None) is not None)
    layers = encoder.pitome.architecture.find_layers(encoder)
    for layer, count in zip(layers, pitome_summary(model).layers):
        layer.forward = functools.partial(_cut_between_halves, layer, count.tokens_out)
    return model


def _cut_between_halves(layer, number, hidden_states, *args, **kwargs):
    # Exporters make a mask of all pairs of tokens, which hides nothing.
    args = [one for one in args if one is None or one.shape[-1] == hidden_states.shape[1]]
    return layer.mlp_half(layer.attention_half(hidden_states, *args, **kwargs)[:, :number])


def _exported(model: torch.nn.Module, key: str, runtime: str, inputs: dict, files: ExportedFiles) -> Callable:
    run = files.load(model, key, runtime, None, [inputs], fixed=True)
    return lambda pixel_values: run({"pixel_values": pixel_values})


def measure(
    config,
    settings: dict,
    batch_size: int,
    dtype: torch.dtype,
    rounds: int,
    clock=time.perf_counter,
    runtime: str = "pytorch",
) -> dict[str, list[float]]:
    """Seconds of every round of `dense`, `merged` and `cut`, which alternate on the same pictures."""
    torch.manual_seed(0)
    merged, ceiling = (apply_pitome(AutoModel.from_config(config, dtype=dtype).eval(), settings) for _ in range(2))
    models = {"dense": merged, "merged": merged, "cut": cut(ceiling)}
    contexts = [lambda: pitome_disabled(merged), contextlib.nullcontext, lambda: pitome_disabled(ceiling)]
    pixel_values = example_inputs(merged, batch_size)["pixel_values"].to(dtype)
    if runtime != "pytorch":
        files = ExportedFiles()
        for (name, model), context in zip(models.items(), contexts):
            with context(), contextlib.redirect_stdout(sys.stderr):  # exporters tell how far they are
                models[name] = _exported(model, name, runtime, {"pixel_values": pixel_values}, files)
        contexts = [contextlib.nullcontext] * 3
    timer = AlternatingTimer(contexts, warmup=2, clock=clock)
    for _ in range(rounds):
        timer.run(*(functools.partial(model, pixel_values) for model in models.values()))
    return dict(zip(models, timer.seconds))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Folder or Hub id with the configuration of a ViT.")
    parser.add_argument("--flops-ratio", type=float, default=1.8, help="How many times fewer operations (1.8).")
    parser.add_argument("--importance", type=float, help="As the setting of this name.")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--runtime", choices=("pytorch", "onnx", "openvino"), default="pytorch")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: the processor's time.")
    args = parser.parse_args(arguments)
    settings = {"flops_ratio": args.flops_ratio, "importance": args.importance}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    config, dtype = AutoConfig.from_pretrained(args.model), getattr(torch, args.dtype)
    found = measure(config, settings, args.batch_size, dtype, args.rounds, clock, args.runtime)
    sys.stdout.write(f"{'':8}{'ms':>10}{'speed-up':>10}  quartiles of the speed-up\n")
    for name, seconds in found.items():
        timing = Timing.of(found["dense"], seconds)
        quartiles = f"{timing.speedup_low:.2f} to {timing.speedup_high:.2f}"
        sys.stdout.write(f"{name:8}{1e3 * statistics.median(seconds):10.4g}{timing.speedup:9.2f}x  {quartiles}\n")


if __name__ == "__main__":
    main()
