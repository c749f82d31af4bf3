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

"""Small tensors that every layer of a forward needs: made once, since each costs a launch. None is changed, but for
copies of which every layer gets its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch


def is_traced() -> bool:
    """Whether a graph is being recorded (compiled, exported, traced), which is to hold no memory from outside and no
    slices that tie lengths to one another; and where some operations do not export."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_fused() -> bool:
    """Whether a compiler makes kernels of what is traced: comparisons of all with all and their sums are one kernel
    for it, and every write to a place that depends on data is one of its own, as a running sum is."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def without_autocast(kind: str) -> contextlib.AbstractContextManager:
    """Inside the block, tensors on a device of this `kind` keep their dtype. `meta` knows of no autocast."""
    return contextlib.nullcontext() if kind == "meta" else torch.autocast(device_type=kind, enabled=False)


def deciding(function: Callable) -> Callable:
    """Runs a function, whose first argument is a tensor, without gradients and outside autocast: what it computes
    decides where tokens go. Modes that are off already are not entered, which takes longer than a small operation."""

    @functools.wraps(function)
    def run(tokens: torch.Tensor, *args, **kwargs):
        kind = tokens.device.type
        on = torch.compiler.is_compiling() or torch.is_grad_enabled() or kind == "meta"
        if on or torch.is_autocast_enabled(kind):
            with torch.no_grad(), without_autocast(kind):
                return function(tokens, *args, **kwargs)
        return function(tokens, *args, **kwargs)

    return run


def make_signs(dim: int, device: torch.device) -> torch.Tensor:
    """`(dim,)`, float32: 1, but for the last number but one, which is -1."""
    return torch.where(torch.arange(dim, device=device) == dim - 2, -1.0, 1.0)


#: So many layers of a forward share one launch that makes what each of them writes to.
_COPIES = 12


class Constants:
    """For `B` samples of up to `N` tokens. Each is made when it is first read.

    Attributes:
        steps (`torch.LongTensor` of shape `(B * N,)`, never empty): 0, 1, 2, ….
        minus_one (`torch.LongTensor` of shape `(1,)`).
        zero, one, floor (`torch.FloatTensor` of shape `(1,)`): the last is 0.2.

    Args:
        number (`int`): `B * N`.
        device (`torch.device`): where they lie.
    """

    def __init__(self, number: int, device: torch.device):
        self.number, self.device = number, device
        self._signs: dict[int, torch.Tensor] = {}
        self._advances: list[torch.Tensor] = []

    @staticmethod
    def of(tokens: torch.Tensor) -> Constants:
        """For `tokens` `(B, N, ...)`, on their device."""
        return Constants(max(tokens.shape[0], 1) * max(tokens.shape[1], 2), tokens.device)

    @functools.cached_property
    def steps(self) -> torch.Tensor:
        return torch.arange(self.number, device=self.device)

    def advance(self, number: int) -> torch.Tensor:
        """0, 1, 1, …, whose running sum is `steps`: `(number,)`, int64. It may be written to: each call gives another
        one. They are made several at a time, since a copy for each layer would cost each a launch."""
        if not self._advances:
            self._advances = list(self.steps.clamp(max=1).repeat(_COPIES, 1))
        return self._advances.pop()[:number]

    @functools.cached_property
    def minus_one(self) -> torch.Tensor:
        return torch.full((1,), -1, device=self.device)

    @functools.cached_property
    def zero(self) -> torch.Tensor:
        return torch.zeros(1, device=self.device, dtype=torch.float32)

    @functools.cached_property
    def one(self) -> torch.Tensor:
        return torch.ones(1, device=self.device, dtype=torch.float32)

    @functools.cached_property
    def floor(self) -> torch.Tensor:
        return torch.full((1,), 0.2, device=self.device, dtype=torch.float32)

    def signs(self, dim: int) -> torch.Tensor:
        """As [`make_signs`]."""
        if dim not in self._signs:
            self._signs[dim] = make_signs(dim, self.device)
        return self._signs[dim]

    def to(self, device: torch.device) -> Constants:
        return Constants(self.number, device)

    def samples(self, batch_size: int) -> torch.Tensor:
        """The number of each sample, `(B, 1)`."""
        return self.steps[:batch_size].unsqueeze(1)
