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

"""What a tensor says about itself: how the hidden states of a rewritten tower get short, which ids were embedded.

A mark is one attribute with a dict of plain data, so that it is saved along with the tensor. A tensor can lose it (by
a cast, a projection, on the way to another device). Then what would have read it does without: slower, not different.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .tokens import Tokens


_MARK = "pitome_mark"


def mark(tensor: torch.Tensor, **values: Any) -> None:
    """Says `values` on `tensor`."""
    setattr(tensor, _MARK, values)


def read_mark(tensor: torch.Tensor | None) -> dict[str, Any] | None:
    """What [`mark`] said; `None` if there is no mark."""
    return getattr(tensor, _MARK, None)


def mark_tokens(hidden_states: torch.Tensor, tokens: Tokens, unmerged: bool, proportional: bool) -> None:
    """Says on `hidden_states` how to shorten them: `sizes` `(B, n)`, `member` (a position of each group, `(B, n)`, or
    `None` where they are short), `proportional`.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`, or `(B, n, dim)` where they are short).
        tokens ([`Tokens`]): those that left the encoder, merged.
        unmerged (`bool`): whether `hidden_states` have their original length.
        proportional (`bool`): whether log sizes count where they are attended to.
    """
    member = tokens.members() if unmerged else None
    mark(hidden_states, sizes=tokens.sizes, member=member, proportional=proportional)


def take_samples(hidden_states: torch.Tensor, index: torch.Tensor | slice) -> torch.Tensor:
    """`hidden_states[index]`, still marked: models that attend to it read the short sequence. This pairs images with
    texts, for re-ranking say.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`): what a rewritten tower returned.
        index (`torch.LongTensor`, `torch.BoolTensor` or `slice`): which samples.

    Returns:
        `torch.Tensor` of shape `(number of samples, N, dim)`.
    """
    taken = hidden_states[index]
    _carry(hidden_states, taken, lambda value: value[index])
    return taken


def carry_mark(hidden_states: torch.Tensor, copy: torch.Tensor, repeats: int) -> None:
    """Marks `copy` like `hidden_states`, each sample of which it has `repeats` times (beam search)."""
    _carry(hidden_states, copy, lambda value: value.repeat_interleave(repeats, dim=0))


def _carry(tensor: torch.Tensor, copy: torch.Tensor, take: Callable[[torch.Tensor], torch.Tensor]) -> None:
    values = read_mark(tensor)
    if values is not None and copy is not tensor:
        moved = {name: take(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        mark(copy, **moved)
