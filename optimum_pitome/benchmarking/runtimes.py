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

"""What runs in a row: a model in PyTorch, eager or compiled, or files that were exported from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..apply import pitome_disabled
from ..export.formats import Run
from ..export.runtimes import ExportedFiles
from .combinations import CUDA_GRAPHS, REGIONS, Combination


def training_step(forward: Callable[..., Any], model: nn.Module) -> Callable[..., None]:
    """Forward, backward, and update. What the loss is does not matter for the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(**batch: torch.Tensor) -> None:
        forward(**batch)[0].float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pytorch_run(model: nn.Module, combination: Combination) -> Callable[..., Any]:
    """The forward, first token or training step of `model`.

    Raises:
        ValueError: if it makes no tokens.
    """
    if combination.measure == "first-token":
        if not (hasattr(model, "can_generate") and model.can_generate()):
            raise ValueError(f"{type(model).__name__} does not generate, so it has no first token")
        return lambda **batch: model.generate(**batch, max_new_tokens=1, do_sample=False, pad_token_id=0)
    forward: Callable[..., Any] = model
    if combination.mode != "eager":
        # What was compiled before counts towards the limit of compilations.
        torch._dynamo.reset()
        if combination.mode == REGIONS:
            from accelerate.utils import compile_regions  # which older versions lack

            # Layers of one kind share a graph if lengths are open. Parameters and settings are those of `model`.
            forward = compile_regions(model, dynamic=True)
        else:
            mode = None if combination.mode == "compile" else combination.mode
            forward = torch.compile(model, mode=mode, dynamic=False)
    if combination.measure == "training":
        return training_step(forward, model)
    if combination.mode not in CUDA_GRAPHS:
        return forward

    def fresh(**batch: torch.Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the last outputs may be written over
        return forward(**batch)

    return fresh


def exported_runs(
    files: ExportedFiles, model: nn.Module, combination: Combination, inputs: Mapping[str, torch.Tensor]
) -> tuple[Run, Run]:
    """Dense and merged, exported and loaded.

    Args:
        model (`torch.nn.Module`): merges as the combination says, in float32 on the CPU.
        inputs (`Mapping`): a batch, for int8 in OpenVINO; its shapes are those that the runtime plans for.
    """
    how = combination.runtime, combination.quantize, [inputs], True
    with pitome_disabled(model):
        dense = files.load(model, "dense", *how)
    return dense, files.load(model, combination.settings or "configured", *how)
