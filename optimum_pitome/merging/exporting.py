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

"""What is traced otherwise by `torch.export`: one path for all lengths, and few nodes where the graph is for a runtime
that takes it node by node. In ONNX Runtime each costs some two microseconds, whatever it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


#: The runtimes that graphs are written for.
ONNX, OPENVINO = "onnx", "openvino"

_runtime: str | None = None

#: Below every ranking key.
LAST = torch.iinfo(torch.int64).min // 2


def is_open(length: int) -> bool:
    """Whether `torch.export` leaves a length open, so that nothing may be decided by the length of its example."""
    return isinstance(length, torch.SymInt) and torch.compiler.is_exporting()


def runtime() -> str | None:
    """The runtime that what is traced is for: `"onnx"` or `"openvino"`; `None` where nothing is exported, or for
    PyTorch."""
    return _runtime if torch.compiler.is_exporting() else None


@contextlib.contextmanager
def exporting_for(name: str) -> Iterator[None]:
    """Inside, what `torch.export` traces is for a runtime of ONNX files, `"onnx"` or `"openvino"`: it says the same in
    fewer nodes, and ranks energies in the way that this runtime computes reliably.

    - the `TopK` of ONNX puts the first of equal numbers first, so energies are ranked as they are;
    - OpenVINO's does not, and has 32 bits for integers, so all energies are compared with one another there.

    For PyTorch neither holds, and unique integers of 64 bits are sorted. It cannot run what is traced inside.
    """
    global _runtime
    before, _runtime = _runtime, name
    try:
        yield
    finally:
        _runtime = before


def slots_without_masks(source: torch.Tensor, target: torch.Tensor, num_tokens: int, start: int) -> torch.Tensor:
    """Where each of `num_tokens` tokens goes in its sample, `(B, N)`, as [`plan_from_pairs`] says it without masks."""
    # What one sample of a batch has in common with the others is a constant, and the rest is a broadcast.
    stays = torch.zeros((source.shape[0], 1), dtype=torch.int64, device=source.device)
    steps = torch.arange(num_tokens, device=source.device)
    # A count from 0 at the first token, if that stays.
    stays = stays + (steps >= 1 if start > 0 else steps >= 0).long()
    source, target = (source + start, target + start) if start > 0 else (source, target)
    slots = stays.scatter(1, source, source * 0).cumsum(dim=1)
    slots = slots if start > 0 else slots - 1
    return slots.scatter(1, source, slots.gather(1, target))


def sum_slots(tokens: torch.Tensor, slots: torch.Tensor, num_kept: int) -> torch.Tensor:
    """The sums of the `tokens` `(B, N)` or `(B, N, dim)` that go to each of the `num_kept` places of their sample, of
    which `slots` `(B, N)` names theirs: `(B, num_kept, ...)`."""
    batch_size, num_tokens, *dims = tokens.shape
    zeros = torch.zeros((batch_size, *[1] * (tokens.dim() - 1)), dtype=tokens.dtype, device=tokens.device)
    zeros = zeros.expand(-1, num_kept, *dims)
    if not dims:
        return zeros.scatter_add(1, slots, tokens)
    samples = torch.arange(batch_size, device=slots.device).view(-1, 1, 1).expand(-1, num_tokens, 1)
    index = torch.cat([samples, slots.unsqueeze(2)], dim=2)
    return _node("ScatterND", zeros.shape, zeros, index, tokens, reduction="add")


def unit_vectors(features: torch.Tensor) -> torch.Tensor:
    """`features` `(B, N, dim)` of length 1; those of length 0 stay."""
    return _node("LpNormalization", features.shape, features, axis=-1, p=2)


def rows_of_each(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of `values` `(B, a, b)` at `index` `(B, n)`: `(B, n, b)`."""
    return _node("GatherND", (*index.shape, values.shape[2]), values, index.unsqueeze(2), batch_dims=1)


def _node(name: str, shape, *tensors: torch.Tensor, **attributes) -> torch.Tensor:
    """One node of ONNX, where what PyTorch's operations become is several, on floats of `tensors[0]`'s dtype."""
    return torch.onnx.ops.symbolic(name, tensors, attributes, dtype=tensors[0].dtype, shape=shape, version=18)


def rank_in_graph(
    steps: torch.Tensor, mergeable: torch.Tensor | None, num_candidates: int, level: torch.Tensor | None
) -> torch.Tensor:
    """What [`rank_by_energy`] returns, of energies in whole steps, as operations that export."""
    if runtime() == OPENVINO:
        return _rank_by_comparison(steps, mergeable, level)[:, :num_candidates]
    if runtime() == ONNX and level is None:
        steps = steps if mergeable is None else steps.masked_fill(~mergeable, -torch.inf)
        return steps.topk(num_candidates, dim=1).indices
    # Unique integers, since stable sorts do not export.
    num_tokens = steps.shape[1]
    from_behind = torch.arange(num_tokens - 1, -1, -1, device=steps.device)
    key = steps.long() * num_tokens + from_behind
    if level is not None:
        key = key + level * 2**58
    if mergeable is not None:
        key = key.masked_fill(~mergeable, LAST)
    return key.topk(num_candidates, dim=1).indices


def _rank_by_comparison(
    steps: torch.Tensor, mergeable: torch.Tensor | None, level: torch.Tensor | None
) -> torch.Tensor:
    """All tokens as [`rank_by_energy`] ranks them, from energies in whole steps: `(B, N)`, int64."""
    if mergeable is not None:
        steps = steps.masked_fill(~mergeable, torch.finfo(steps.dtype).min)
        level = None if level is None else level.masked_fill(~mergeable, -1)
    position = torch.arange(steps.shape[1], device=steps.device)
    mine, others = steps.unsqueeze(2), steps.unsqueeze(1)
    before = (others > mine) | (others == mine) & (position < position.unsqueeze(1))
    if level is not None:
        mine, others = level.unsqueeze(2), level.unsqueeze(1)
        before = (others > mine) | (others == mine) & before
    place = before.float().sum(dim=2).long()
    return torch.zeros_like(place).scatter(1, place, position.expand_as(place))
