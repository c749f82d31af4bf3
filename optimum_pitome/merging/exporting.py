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

"""What is traced otherwise by `torch.export`: one path for all lengths, and rankings that runtimes compute alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


_by_comparison = False


def is_open(length: int) -> bool:
    """Whether `torch.export` leaves a length open, so that nothing may be decided by the length of its example."""
    return isinstance(length, torch.SymInt) and torch.compiler.is_exporting()


def ranks_by_comparison() -> bool:
    """Whether energies are ranked as [`ranking_by_comparison`] says."""
    return _by_comparison and torch.compiler.is_exporting()


@contextlib.contextmanager
def ranking_by_comparison() -> Iterator[None]:
    """Inside, what `torch.export` traces compares all energies with one another, instead of sorting keys of 64 bits,
    with the same result. OpenVINO needs it: its integers have 32 bits there, and its sort is not stable, so equal
    energies (of two tokens that are nearest to each other) would come in any order."""
    global _by_comparison
    before, _by_comparison = _by_comparison, True
    try:
        yield
    finally:
        _by_comparison = before


def rank_by_comparison(
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
