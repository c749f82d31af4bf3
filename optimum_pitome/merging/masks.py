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

"""Which tokens may merge."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..methods import SHORTENING
from .constants import Constants
from .counts import KeepRatio
from .spec import MergeSpec


@dataclass(frozen=True)
class TokenMasks:
    """Which tokens may merge, and what they weigh when they are compared.

    Attributes:
        num_prefix_tokens (`int`): tokens at the front that never merge (CLS, distillation, registers).
        valid (`torch.BoolTensor` of shape `(B, N)`, *optional*): real tokens, not padding. `None`: all.
        special (`torch.BoolTensor` of shape `(B, N)`, *optional*): further tokens that never merge, per sample.
        max_special (`int`): no sample has more special tokens than this. Keeps the output length static.
        attention (`torch.FloatTensor` of shape `(B, N)` or `(B, heads, N)`, *optional*):
            What the class token pays to each token, for `MergeSpec.importance`. Algorithms get the mean over heads.
        protected (`torch.BoolTensor` of shape `(B, N)`, *optional*):
            Tokens that do not merge either, any number of them per sample (masks of a masked language model).
        constants ([`Constants`], *optional*): of the forward. `None`: made where they are needed.
        ends (`tuple[int, int]`):
            So many further tokens never merge after the prefix and at the end of every sample. It says without a mask
            what `special` says otherwise, only where there are no masks at all, and only to algorithms that know of it
            (`Algorithm.takes_ends`). [`~TokenMasks.spelled_out`] is for the others.

    Special tokens are not counted in `M`, the mergeable tokens that `k = floor(M * (1 - ratio))` is made of; so
    `max_special` has to bound their number. Protected tokens are counted: the others of the sample make up for them.
    The output length is therefore the same however many tokens are protected, and protection costs nothing where
    there are none. It holds as long as a sample has more unprotected tokens than `k`, that is, while fewer than
    `M - k` are protected. A sample beyond that merges in this layer as if nothing were protected: no plan of static
    length could keep all of its tokens.
    """

    num_prefix_tokens: int = 0
    valid: torch.Tensor | None = None
    special: torch.Tensor | None = None
    max_special: int = 0
    attention: torch.Tensor | None = None
    protected: torch.Tensor | None = None
    constants: Constants | None = None
    ends: tuple[int, int] = (0, 0)

    @property
    def start(self) -> int:
        """Where the tokens begin that may merge: after the prefix and the first of the `ends`."""
        return self.num_prefix_tokens + self.ends[0]

    @property
    def never(self) -> int:
        """So many tokens of a sample never merge, at most: no fewer in any sample where there are no masks."""
        return self.num_prefix_tokens + sum(self.ends) + self.max_special

    def inner(self, values: torch.Tensor) -> torch.Tensor:
        """`values` `(B, N, ...)` without the prefix and the `ends`."""
        return values[:, self.start : -self.ends[1]] if self.ends[1] else values[:, self.start :]

    def spelled_out(self, features: torch.Tensor) -> TokenMasks:
        """The same with `special` in place of `ends`, for `features` `(B, N, dim)`."""
        if self.ends == (0, 0):
            return self
        place = torch.arange(features.shape[1], device=features.device)
        special = (place < self.start) | (place >= features.shape[1] - self.ends[1])
        special = special.expand(features.shape[0], -1)
        return replace(self, special=special, max_special=sum(self.ends), ends=(0, 0))

    @property
    def exclude(self) -> bool:
        """Whether there are masks: otherwise all tokens after the prefix may merge, in every sample."""
        return self.valid is not None or self.special is not None or self.protected is not None

    def check(self, features: torch.Tensor) -> None:
        """Compares the masks with `features` `(B, N, dim)`.

        Raises:
            ValueError: if a mask is for another number of samples or tokens.
        """
        batch_size, num_tokens = features.shape[:2]
        for name, mask in (
            ("attention mask", self.valid),
            ("mask of special tokens", self.special),
            ("mask of protected tokens", self.protected),
        ):
            if mask is None:
                continue
            if mask.shape[1] != num_tokens or (mask.shape[0] != batch_size and mask.shape[0] != 1):
                raise ValueError(
                    f"The {name} is for {mask.shape[0]} samples of {mask.shape[1]} tokens, but there are {batch_size} "
                    f"samples of {num_tokens} tokens. Give one value for each token, special ones such as CLS "
                    "included: 1 for a real token, 0 for padding."
                )

    def num_removed(self, ratio: KeepRatio, counted: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """k of each sample, `(B, 1)`, of which `counted` `(B, 1)` of `num_tokens` tokens may merge."""
        if ratio.multiple_of == 1:
            return ratio.num_removed(counted)
        real = num_tokens if self.valid is None else self.valid.sum(dim=1, keepdim=True)
        return ratio.num_removed(counted, real - counted)

    def most_removed(self, ratio: KeepRatio, num_tokens: int) -> int:
        """The largest k that a sample of `num_tokens` tokens can have: that of all, where no mask tells them apart."""
        others = self.num_prefix_tokens + sum(self.ends)
        mergeable = num_tokens - others
        if self.valid is None and self.special is None:
            return ratio.num_removed(mergeable, others)
        return ratio.most_removed(mergeable)

    def num_kept(self, ratio: KeepRatio, num_tokens: int) -> int:
        """What `num_tokens` tokens of each sample are made to. Samples with fewer special tokens than `max_special`
        merge more: the length must fit the one with the most."""
        never = self.never
        return num_tokens if num_tokens < never else never + ratio.num_kept(num_tokens - never, never)

    def over_heads(self) -> TokenMasks:
        """The same with the mean of `attention` over the heads."""
        if self.attention is None or self.attention.dim() == 2:
            return self
        return replace(self, attention=self.attention.mean(dim=1))

    def weights(self, spec: MergeSpec) -> tuple[torch.Tensor | None, bool, float]:
        """The attention that says what tokens weigh in means ([`weights_of`]); where it is `None`, whether sizes
        weigh; and how much of their norm means keep ([`~combine.keep_norm`])."""
        by_attention = spec.weighted_by == "attention" and self.attention is not None
        kept = spec.keep_norm if spec.combine in SHORTENING else 0.0
        return self.attention if by_attention else None, spec.weighted_by != "nothing", kept

    def mergeable(self) -> torch.Tensor | None:
        """The tokens that are counted in `M`, `(B, N)` bool, or `None` where the prefix says it all."""
        mergeable = self._after(0)
        if mergeable is None or self.num_prefix_tokens == 0:
            return mergeable
        return mergeable & (torch.arange(mergeable.shape[1], device=mergeable.device) >= self.num_prefix_tokens)

    def mergeable_after_prefix(self) -> torch.Tensor | None:
        """The same without the prefix, `(B, M)`."""
        return self._after(self.num_prefix_tokens)

    def _after(self, start: int) -> torch.Tensor | None:
        valid, special = (None if mask is None else mask[:, start:] for mask in (self.valid, self.special))
        if valid is not None:
            return valid if special is None else valid & ~special
        if special is not None:
            return ~special
        return None if self.protected is None else torch.ones_like(self.protected[:, start:])


def weights_of(attention: torch.Tensor) -> torch.Tensor:
    """What tokens weigh in means, `(B, N)`, where the class token pays `attention` `(B, N)` or `(B, heads, N)`."""
    attention = attention.mean(dim=1) if attention.dim() == 3 else attention
    return attention.clamp(min=1e-9)  # what nobody looks at has a mean, too


def weights_of_means(
    attention: torch.Tensor | None, sizes: torch.Tensor | None, totals: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The `weights` of [`MergePlan.merge`] and, where they are known, their `totals`: by `attention`, else by `sizes`
    `(B, N)`, which add up to `totals` `(B, n)`; nothing where all tokens weigh the same."""
    if attention is not None:
        return (weights_of(attention),)
    return () if sizes is None else (sizes, totals)
