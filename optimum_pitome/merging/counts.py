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

"""How many tokens a layer removes, in exact arithmetic."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import torch


# 10**9 keeps `num_mergeable * numerator` inside int64 for any sequence that fits in memory.
_MAX_DENOMINATOR = 10**9


@dataclass(frozen=True)
class KeepRatio:
    """The fraction of its mergeable tokens that a layer keeps, held as the exact fraction that it removes.

    `0.9` means nine tenths, not the binary float next to it: of 10 tokens it removes exactly 1 (a float computation of
    `10 * (1 - 0.9)` gives 0.99… and would remove none). Ratios are read with nine decimal places.

    Attributes:
        removed_numerator (`int`): numerator of `1 - ratio`.
        removed_denominator (`int`): denominator of `1 - ratio`, at most 10**9.
        min_tokens (`int`): so many mergeable tokens stay in any case.
        multiple_of (`int`): what stays, special tokens included, is a multiple of this where there are enough tokens.
    """

    removed_numerator: int
    removed_denominator: int
    min_tokens: int = 0
    multiple_of: int = 1

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def from_float(ratio: float, min_tokens: int = 0, multiple_of: int = 1) -> KeepRatio:
        # repr() is the shortest decimal that gives this float back, which is what the user wrote.
        kept = Fraction(round(Fraction(repr(float(ratio))) * _MAX_DENOMINATOR), _MAX_DENOMINATOR)
        removed = 1 - kept
        return KeepRatio(removed.numerator, removed.denominator, min_tokens, multiple_of)

    @property
    def is_dense(self) -> bool:
        """Whether nothing is ever removed (ratio 1)."""
        return self.removed_numerator == 0

    @property
    def kept(self) -> float:
        """The fraction that stays, with the nine decimal places that ratios are read with."""
        return round(1 - self.removed_numerator / self.removed_denominator, 9)

    def num_removed(self, num_mergeable, num_special=0):
        """`k = floor(M * (1 - ratio))` (paper, section 3.2), at most `M - min_tokens`, and as many fewer as make
        `M - k + S` a multiple of `multiple_of`.

        `M - k + S` never falls when `M` or `S` grows, nor when a token is special that was not, so what is left of the
        longest sample of a batch holds what is left of any other.

        Args:
            num_mergeable (`int`, `torch.SymInt` or integer `torch.Tensor`): M, the mergeable tokens.
            num_special (the same, *optional*, defaults to 0): S, those that never merge; for `multiple_of`.

        Returns:
            The same type as `num_mergeable`.
        """
        removed = self.most_removed(num_mergeable)
        if self.multiple_of == 1:
            return removed
        spared = -(num_mergeable - removed + num_special) % self.multiple_of
        if isinstance(num_mergeable, torch.Tensor):
            return (removed - spared).clamp(min=0)
        return torch.sym_max(removed - spared, 0)

    def most_removed(self, num_mergeable):
        """k without `multiple_of`, at least as much as any shorter sample loses: it never falls when `M` grows."""
        removed = (num_mergeable * self.removed_numerator) // self.removed_denominator
        if self.min_tokens == 0:
            return removed
        if isinstance(num_mergeable, torch.Tensor):
            return torch.minimum(removed, (num_mergeable - self.min_tokens).clamp(min=0))
        return torch.sym_min(removed, torch.sym_max(num_mergeable - self.min_tokens, 0))

    def num_kept(self, num_mergeable, num_special=0):
        """`M - k`, in a form that names M as seldom as can be: compilers build the length after a dozen layers from
        this, and every further mention would double the expression in each layer."""
        kept = self.removed_denominator - self.removed_numerator
        kept = (num_mergeable * kept + self.removed_denominator - 1) // self.removed_denominator
        if self.min_tokens:
            kept = torch.sym_max(kept, torch.sym_min(num_mergeable, self.min_tokens))
        if self.multiple_of == 1:
            return kept
        total = (kept + num_special + self.multiple_of - 1) // self.multiple_of * self.multiple_of
        return torch.sym_min(total - num_special, num_mergeable)


def length_of(tokens: torch.Tensor) -> int:
    """Tokens in a tensor of shape `(B, N, ...)`, which lengths are computed from.

    `torch.jit.trace` (and with it `torch.onnx.export(dynamo=False)`) hands out sizes as tensors. There the length is
    that of the example, as a constant; the size of the batch stays open.
    """
    length = tokens.shape[1]
    return int(length) if isinstance(length, torch.Tensor) else length
