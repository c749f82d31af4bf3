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

"""Arguments of a layer that have an entry for each token: rotary embeddings, biases for the distance of two tokens.

An encoder computes them once, for its original tokens. Every layer after a merge gets them for the tokens that are
left: a merged token keeps the place of the one that survived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..merging import gather_tokens
from ..merging.rows import take_pairs
from .signatures import names
from .tokens import Tokens


if TYPE_CHECKING:
    from .architecture import Architecture


#: From an argument for the original tokens and the [`Tokens`] that are left (`positions` `(B, n)`), that for these.
Cut = Callable[[Any, Tokens], Any]


def cut_pairs(bias: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """Cuts a bias on the scores to the tokens that are left.

    `bias` is `(B or 1, heads, N, N)`, and what is returned `(B, heads, n, n)`, with the dtype of `bias`.
    """
    return take_pairs(bias, tokens.positions)


def cut_rotary(embeddings: tuple[torch.Tensor, ...], tokens: Tokens) -> tuple[torch.Tensor, ...]:
    """Cosines and sines of rotary embeddings, of all tokens or of those after the prefix.

    Args:
        embeddings (`tuple[torch.Tensor, ...]`): each `(N, d)`, `(B or 1, N, d)` or `(B or 1, 1, N, d)`.
        tokens ([`Tokens`]): those that are left.

    Returns:
        As many tensors of shape `(B, 1, n, d)`, or `(B, n, d)` for three dimensions.
    """
    return tuple(_cut_rows(values, tokens) for values in embeddings)


def turn_back(keys: torch.Tensor, embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Keys as they were before the rotation, up to a factor.

    Args:
        keys (`torch.Tensor` of shape `(B, n, d)`): the first half of their features was rotated against the second.
        embeddings (`tuple[torch.Tensor, torch.Tensor]`):
            Cosines and sines, as [`cut_rotary`] takes or gives them, of all tokens or of those after the prefix.
    """
    cos, sin = (values.squeeze(1) if values.dim() == 4 else values for values in embeddings)
    number = cos.shape[-2]
    rotated = keys[:, keys.shape[1] - number :]
    first, second = rotated.chunk(2, dim=-1)
    turned = rotated * cos + torch.cat([second, -first], dim=-1) * sin
    if number == keys.shape[1]:
        return turned
    return torch.cat([keys[:, : keys.shape[1] - number], turned], dim=1)


def cut_positions(positions: torch.Tensor | None, tokens: Tokens) -> torch.Tensor:
    """Cuts the place of each token, which its layer makes rotary embeddings of, from `(B or 1, N)` to `(B, n)`.
    `None`, for tokens in their order, becomes the places of those that are left."""
    if positions is None:
        return tokens.positions
    return gather_tokens(positions.expand(tokens.positions.shape[0], -1), tokens.positions)


def _cut_rows(values: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    # The prefix never merges, so it has not moved.
    prefix = tokens.rows.shape[1] - values.shape[-2]
    positions = tokens.positions[:, prefix:] - prefix
    # Not `len(positions)`: `torch.export` would take it for the same number in every batch.
    rows = values.reshape(-1, *values.shape[-2:]).expand(positions.shape[0], -1, -1)
    rows = gather_tokens(rows, positions)
    return rows if values.dim() == 3 else rows.unsqueeze(1)


@dataclass(frozen=True)
class LayerArguments:
    """What a layer is called with, beside the hidden states.

    Attributes:
        layer (`str`): the layer's class.
        names (`tuple[str, ...]`): parameters of its `forward`, in their order.
        read (`frozenset[str]`): parameters of its `forward` and of its attention's; whatever else comes along, such as
            what a `Trainer` passes to the model, nobody reads.
        cuts (`Mapping[str, Cut | None]`): see `Architecture.token_arguments`.
    """

    layer: str
    names: tuple[str, ...]
    read: frozenset[str]
    cuts: Mapping[str, Cut | None]

    @classmethod
    def of(cls, architecture: Architecture, attention_class: type) -> LayerArguments:
        layer_class = architecture.dense_layer_class
        of_layer = names(layer_class.forward)[1:]  # without the hidden states
        read = frozenset(of_layer) | frozenset(names(attention_class.forward))
        return cls(layer_class.__name__, of_layer, read, architecture.token_arguments)

    def cut(self, args: tuple, kwargs: dict[str, Any], tokens: Tokens) -> tuple[tuple, dict[str, Any]]:
        """The arguments for tokens that have merged.

        Raises:
            RuntimeError: for a tensor that the layer reads and `cuts` does not name: it may have an entry per token.
        """
        args = tuple(self._cut(name, value, tokens) for name, value in zip(self.names, args)) + args[len(self.names) :]
        return args, {name: self._cut(name, value, tokens) for name, value in kwargs.items()}

    def _cut(self, name: str, value: Any, tokens: Tokens) -> Any:
        if name == "attention_mask":  # which travels with the tokens
            return value
        cut = self.cuts.get(name)
        if value is None and cut is not cut_positions:
            return value
        if name in self.cuts:
            return value if cut is None else cut(value, tokens)
        if name not in self.read:
            return value
        values = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(item, torch.Tensor) for item in values):
            raise RuntimeError(
                f"{self.layer} got the tensor argument {name!r} after tokens had merged. If it has an entry for each "
                "token, merging must cut it down, and nothing says how. If the family is yours, pass it to "
                f"register_architecture: token_arguments={{{name!r}: cut_rotary}}, say, or None for what has no such "
                "entries. Otherwise run the model dense: with pitome_disabled(model): ..."
            )
        return value
