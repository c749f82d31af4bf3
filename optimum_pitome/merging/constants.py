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

"""Small tensors that every layer of a forward needs and none changes: made once, since each costs a launch."""

from __future__ import annotations

import functools

import torch


def is_traced() -> bool:
    """Whether a graph is being recorded (compiled, exported, traced), which is to hold no memory from outside and no
    slices that tie lengths to one another; and where some operations do not export."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Constants:
    """For `B` samples of up to `N` tokens. Each is made when it is first read.

    Attributes:
        steps (`torch.LongTensor` of shape `(B * N,)`, never empty): 0, 1, 2, ….
        advance (`torch.LongTensor` of the same shape): 0, 1, 1, …, whose running sum is `steps`.
        minus_one (`torch.LongTensor` of shape `(1,)`).
        zero, one (`torch.FloatTensor` of shape `(1,)`).

    Args:
        number (`int`): `B * N`.
        device (`torch.device`): where they lie.
    """

    def __init__(self, number: int, device: torch.device):
        self.number, self.device = number, device

    @staticmethod
    def of(tokens: torch.Tensor) -> Constants:
        """For `tokens` `(B, N, ...)`, on their device."""
        return Constants(max(tokens.shape[0], 1) * max(tokens.shape[1], 2), tokens.device)

    @functools.cached_property
    def steps(self) -> torch.Tensor:
        return torch.arange(self.number, device=self.device)

    @functools.cached_property
    def advance(self) -> torch.Tensor:
        return self.steps.clamp(max=1)

    @functools.cached_property
    def minus_one(self) -> torch.Tensor:
        return torch.full((1,), -1, device=self.device)

    @functools.cached_property
    def zero(self) -> torch.Tensor:
        return torch.zeros(1, device=self.device, dtype=torch.float32)

    @functools.cached_property
    def one(self) -> torch.Tensor:
        return torch.ones(1, device=self.device, dtype=torch.float32)

    def to(self, device: torch.device) -> Constants:
        return Constants(self.number, device)

    def samples(self, batch_size: int) -> torch.Tensor:
        """The number of each sample, `(B, 1)`."""
        return self.steps[:batch_size].unsqueeze(1)
