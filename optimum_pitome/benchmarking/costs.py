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

"""What a forward costs beside its time: operations, memory, and the share of the merge step; and what int8 changes."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..apply import layers_watched
from ..export.modules import named_tensors
from ..kernels.choice import without_kernels
from ..merging import match_tokens
from ..modeling.record import LayerRecord


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


#: Torch's counter does not know the CPU's attention kernel.
_KERNELS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@torch.no_grad()
def count_operations(run: Callable[[], Any]) -> float:
    """10**9 multiply-adds of `run`: its matrix products, convolutions and attention, in the whole model."""
    with without_kernels(), FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        run()
    return counter.get_total_flops() / 2e9


def peak_memory(run: Callable[[], Any], device: torch.device) -> int | None:
    """The most bytes that tensors took at once in `run`, beside those that were there before: on CUDA from its
    allocator's statistics, on a CPU from what the profiler saw being allocated and freed. `None` on other devices."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler says on stderr that it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return most


@torch.no_grad()
def merge_seconds(
    model: nn.Module,
    run: Callable[[], Any],
    synchronize: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 3,
) -> float:
    """Seconds that matching and merging take in one merged forward: every layer's are run again by themselves, on what
    the layer compared. What importance and log sizes cost inside the attention is not in it."""
    records: list[LayerRecord] = []
    with layers_watched(model, records.append):
        run()
    hidden_size = getattr(model.config, "hidden_size", None) or records[0].features.shape[-1] if records else 0
    total = 0.0
    for record in records:
        if record.plan is None:
            continue
        hidden_states = record.features.new_zeros((*record.features.shape[:2], hidden_size))
        step = functools.partial(_merge_step, record, hidden_states)
        times = []
        for _ in range(1 + repeats):
            synchronize()
            start = clock()
            step()
            synchronize()
            times.append(clock() - start)
        total += sorted(times[1:])[repeats // 2]
    return total


def _merge_step(record: LayerRecord, hidden_states: torch.Tensor) -> torch.Tensor:
    plan = match_tokens(record.features, record.spec, record.masks)
    return record.tokens.merge(plan, hidden_states, *record.masks.weights(record.spec))[0]


def loss(expected: Any, found: Any) -> float | None:
    """Mean over samples of 1 - cosine between two outputs, of the worst tensor that both have; `None` where they have
    none of one shape."""
    expected, found = (one if _is_plain(one) else named_tensors(one) for one in (expected, found))
    worst = None
    for name in expected.keys() & found.keys():
        one, two = (side[name].detach().float().cpu() for side in (expected, found))
        if one.shape == two.shape and one.dim() > 1:
            cosine = nn.functional.cosine_similarity(one.flatten(1), two.flatten(1)).mean().item()
            worst = max(worst or 0.0, 1 - cosine)
    return worst


def _is_plain(output: Any) -> bool:
    return isinstance(output, Mapping) and all(isinstance(value, torch.Tensor) for value in output.values())
