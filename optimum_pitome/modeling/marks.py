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

"""What the hidden states of a rewritten tower say about themselves, for models that read them (`cross_attention.py`).

The mark is one attribute with plain data, so that it is saved along with the tensor. A tensor that loses it (by a
cast, a projection) is read at full length: slower, not different.
"""

from __future__ import annotations

import torch

from .state import Tokens


_MARK = "pitome_tokens"


def mark_tokens(hidden_states: torch.Tensor, tokens: Tokens, unmerged: bool, proportional: bool) -> None:
    """Says on `hidden_states` how to shorten them.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`, or `(B, n, dim)` where they are short).
        tokens ([`Tokens`]): those that left the encoder, merged.
        unmerged (`bool`): whether `hidden_states` have their original length.
        proportional (`bool`): whether log sizes count where they are attended to.
    """
    member = tokens.members() if unmerged else None
    setattr(hidden_states, _MARK, {"sizes": tokens.sizes, "member": member, "proportional": proportional})


def read_mark(hidden_states: torch.Tensor | None) -> dict | None:
    """`sizes` `(B, n)`, `member` (a position of each group, `(B, n)`, or `None`), `proportional`; or `None`."""
    return getattr(hidden_states, _MARK, None)


def carry_mark(hidden_states: torch.Tensor, copy: torch.Tensor, repeats: int) -> None:
    """Marks `copy` like `hidden_states`, each sample of which it has `repeats` times (beam search)."""
    _carry(hidden_states, copy, lambda value: value.repeat_interleave(repeats, dim=0))


def take_samples(hidden_states: torch.Tensor, index: torch.Tensor | slice) -> torch.Tensor:
    """`hidden_states[index]` of a rewritten tower, still marked: for pairing images with texts (re-ranking).

    Args:
        hidden_states (`torch.Tensor` of shape `(B, N, dim)`): what the tower returned.
        index (`torch.LongTensor`, `torch.BoolTensor` or `slice`): which samples.
    """
    taken = hidden_states[index]
    _carry(hidden_states, taken, lambda value: value[index])
    return taken


def _carry(hidden_states: torch.Tensor, copy: torch.Tensor, take) -> None:
    mark = read_mark(hidden_states)
    if mark is not None and copy is not hidden_states:
        moved = {name: take(value) if isinstance(value, torch.Tensor) else value for name, value in mark.items()}
        setattr(copy, _MARK, moved)
