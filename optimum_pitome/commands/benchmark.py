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

"""`optimum-cli pitome benchmark`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import logging

from ..analysis import pitome_summary
from ..analysis.timing import DenseMergedTimer
from ..apply import apply_pitome
from .arguments import configured, settings_name, several_settings
from .results import Results


#: Ten seconds of 16 kHz.
_SAMPLES = 160000


def run(args: argparse.Namespace, results: Results) -> None:
    if args.rounds < 1 or args.warmup < 0 or min(args.batch_size) < 1:
        raise ValueError("--rounds and --batch-size start at 1, --warmup at 0.")
    if not isinstance(getattr(torch, args.dtype, None), torch.dtype):
        raise ValueError(f"--dtype {args.dtype}: expected float32, bfloat16 or float16.")
    config, keyword = configured(args)
    torch.manual_seed(0)
    # The time of a forward does not depend on the weights, so none are read.
    model = AutoModel.from_config(config, dtype=getattr(torch, args.dtype), **keyword).train(args.training)
    inputs = {size: _inputs(model, size, args.sequence_length) for size in args.batch_size}
    try:
        model.to(args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {error}") from None
    several = several_settings(args)
    for settings in several or [None]:
        if settings is not None:
            apply_pitome(model, settings)
        # What the model really gets: an image's tokens follow from its size.
        summary = pitome_summary(model, num_tokens=args.sequence_length)
        name = "" if settings is None else f"{settings_name(settings)}: "
        results.add(
            f"{name}{type(model).__name__}, {summary.tokens[0]} tokens, {args.dtype} on {model.device}"
            f"{', compiled' if args.compile else ''}{', training steps' if args.training else ''}; "
            f"{summary.flops_ratio:.2f}x fewer operations than dense"
        )
        about = {"given": settings, "class": type(model).__name__, "tokens": summary.tokens[0]}
        about |= {"flops_ratio": summary.flops_ratio, "dtype": args.dtype, "device": str(model.device)}
        about |= {"compiled": args.compile, "training": args.training}
        results.add(benchmarks=[{**about, "batches": _time(model, inputs, args, results)}])


def _time(
    model: torch.nn.Module, inputs: dict[int, dict[str, torch.Tensor]], args: argparse.Namespace, results: Results
) -> list[dict[str, Any]]:
    row, found = "{:>5}  {:>10}  {:>10}  {:>8}  {}", []
    results.add(row.format("batch", "dense, ms", "merged, ms", "speed-up", f"quartiles of {args.rounds} rounds"))
    forward = torch.compile(model) if args.compile else model
    for size in args.batch_size:
        batch = {name: tensor.to(model.device) for name, tensor in inputs[size].items()}
        timer = DenseMergedTimer(model, args.warmup, gradients=args.training)
        run = training_step(forward, model) if args.training else forward
        for _ in logging.tqdm(range(args.rounds), desc=f"batch of {size}", leave=False):
            timer.run(lambda: run(**batch))
        timing = timer.result()
        numbers = (f"{timing.dense_ms:.4g}", f"{timing.merged_ms:.4g}", f"{timing.speedup:.2f}x")
        results.add(row.format(size, *numbers, f"{timing.speedup_low:.2f} to {timing.speedup_high:.2f}"))
        found.append({"batch_size": size, **asdict(timing)})
    return found


def training_step(forward: Callable[..., Any], model: torch.nn.Module) -> Callable[..., None]:
    """Forward, backward, and update. What the loss is does not matter for the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(**batch: torch.Tensor) -> None:
        forward(**batch)[0].float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _shape(name: str, config: PreTrainedConfig) -> tuple[int, ...] | None:
    """Of one image, clip or sound of the configured size; `None` for other inputs."""
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    if name in ("pixel_values", "pixel_values_videos") and size is not None:
        pixels = (size, size) if isinstance(size, int) else tuple(size)
        channels = getattr(config, "num_channels", None) or config.in_chans
        frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
        return (channels, *pixels) if frames is None else (frames, channels, *pixels)
    if name == "input_values" and hasattr(config, "num_mel_bins"):
        return config.max_length, config.num_mel_bins
    return (_SAMPLES,) if name == "input_values" else None


def _inputs(model: torch.nn.Module, batch_size: int, num_tokens: int | None) -> dict[str, torch.Tensor]:
    """Random inputs of the configured size."""
    name, config = model.main_input_name, model.config
    shape = _shape(name, config)
    if shape is not None:
        if num_tokens is not None:
            raise ValueError("--sequence-length is for texts: an image's tokens follow from its size (--image-size).")
        return {name: torch.randn(batch_size, *shape).to(model.dtype)}
    if name != "input_ids" or not hasattr(config, "max_position_embeddings"):
        raise ValueError(f"{type(model).__name__} takes more than one input: there is no benchmark for it.")
    length = num_tokens or model.config.max_position_embeddings
    ids = torch.randint(5, model.config.vocab_size, (batch_size, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
