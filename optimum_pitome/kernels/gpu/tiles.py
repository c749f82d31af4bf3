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

"""Sizes of tiles, and tensors as kernels take them."""

from __future__ import annotations

import torch


#: How many tokens a tile has on either side, how many features a product reads at once, and how many tokens are
#: counted at once. With 32 features, threads of some variants spilled registers.
BLOCK_N, BLOCK_K, BLOCK_R = 32, 16, 128

#: The numbers in a tile of whole tokens, at most: they live in registers. Some variants spilled with twice as many.
TILE = 2048


def power_of_two(number: int) -> int:
    """The least power of two that is not below `number`, and at least 16, the least that a tile has."""
    return max(16, 1 << (number - 1).bit_length())


def num_blocks(number: int, size: int) -> int:
    return (number + size - 1) // size


def bytes_of(mask: torch.Tensor | None, other: torch.Tensor) -> tuple[torch.Tensor, int]:
    """`mask` `(B or 1, N)` as bytes and the distance of its samples; without one, `other` in its place."""
    if mask is None:
        return other, 0
    mask = mask if mask.stride(1) == 1 else mask.contiguous()
    return mask.view(torch.uint8), mask.stride(0) if mask.shape[0] > 1 else 0


def dense_rows(tokens: torch.Tensor) -> torch.Tensor:
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()
