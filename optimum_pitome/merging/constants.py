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

from dataclasses import dataclass, replace

import torch


def is_traced() -> bool:
    """Whether a graph is being recorded (compiled, exported, traced), which is to hold no memory from outside and no
    slices that tie lengths to one another; and where some operations do not export."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@dataclass(frozen=True)
class Constants:
    """For `B` samples of up to `N` tokens.

    Attributes:
        steps (`torch.LongTensor` of shape `(B * N,)`, never empty): 0, 1, 2, ….
        advance (`torch.LongTensor` of the same shape): 0, 1, 1, …, whose running sum is `steps`.
        minus_one (`torch.LongTensor` of shape `(1,)`).
        zero, one (`torch.FloatTensor` of shape `(1,)`).
    """

    steps: torch.Tensor
    advance: torch.Tensor
    minus_one: torch.Tensor
    zero: torch.Tensor
    one: torch.Tensor

    @staticmethod
    def of(tokens: torch.Tensor) -> Constants:
        """For `tokens` `(B, N, ...)`, on their device."""
        device = tokens.device
        steps = torch.arange(max(tokens.shape[0], 1) * max(tokens.shape[1], 2), device=device)
        one = torch.ones(1, dtype=torch.float32, device=device)
        return Constants(steps, steps.clamp(max=1), -torch.ones_like(steps[:1]), torch.zeros_like(one), one)

    @property
    def device(self) -> torch.device:
        return self.steps.device

    def to(self, device: torch.device) -> Constants:
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def samples(self, batch_size: int) -> torch.Tensor:
        """The number of each sample, `(B, 1)`."""
        return self.steps[:batch_size].unsqueeze(1)
