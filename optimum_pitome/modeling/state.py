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

"""What one forward pass knows about its tokens. Nothing here outlives the forward, and nothing is shared between two.

A fresh [`MergeState`] travels as a keyword argument from the encoder through every layer. Layer `i` reads slot `i` and
writes slot `i + 1`, never its own input, so a layer that runs twice (activation checkpointing) does the same twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..merging import MergeSpec, is_open
from .tokens import UNTOUCHED, Tokens


if TYPE_CHECKING:
    from .token_arguments import LayerArguments


#: Keyword argument that carries the state to the layers.
STATE_KEY = "pitome_state"


@dataclass
class MergeState:
    """One forward of one encoder, with the settings that it started with.

    Attributes:
        specs (`tuple[MergeSpec, ...]`): one per layer.
        read_tokens (`Callable[[], Tokens]`): the tokens that enter the encoder.
        layer_arguments ([`LayerArguments`], *optional*): how to cut what layers are called with.
        num_prefix_tokens (`int`): special tokens at the front.
        reads (`tuple[int, ...]`): hidden states that are read together, so that they need the same tokens.
        num_run (`int`, *optional*): layers that run; nothing reads what those after them compute. `None`: all.
        watch (`Callable`, *optional*): called with a `LayerRecord` by every layer that can merge.
        is_traced (`bool`): whether a compiler reads the whole forward, and not single layers.
        slots (`list[Tokens | None]`):
            `slots[i]` is what layer `i` receives, `slots[-1]` what leaves the encoder; `None` until it is known.
        filled (`tuple[int, ...]`): the slots that the layers filled, once all have run (or were dropped out).
    """

    specs: tuple[MergeSpec, ...]
    read_tokens: Callable[[], Tokens]
    layer_arguments: LayerArguments | None = None
    num_prefix_tokens: int = 0
    reads: tuple[int, ...] = ()
    num_run: int | None = None
    watch: Callable[[Any], None] | None = None
    is_traced: bool = field(init=False)
    slots: list[Tokens | None] = field(init=False)
    filled: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self):
        self.is_traced = torch.compiler.is_dynamo_compiling()
        self.slots = [UNTOUCHED] + [None] * len(self.specs)

    def entering(self, index: int) -> Tokens:
        """What layer `index` receives: what left the last layer before it that ran (layers may be dropped out)."""
        while self.slots[index] is None:
            index -= 1
        return self.slots[index]

    def arrive(self) -> bool:
        """Fills the slots after layers that were dropped out; whether there were none."""
        self.filled = tuple(index for index, slot in enumerate(self.slots) if slot is not None)
        self.slots = [self.entering(index) for index in range(len(self.slots))]
        return len(self.filled) == len(self.slots)

    def merges(self, index: int, num_tokens: int, opaque: bool = False) -> bool:
        """Whether layer `index` can merge anything in a sequence of `num_tokens`, whatever the sample.

        Where merging is `opaque` to a compiler, so is the length of most layers: one graph is for all of them, and an
        operator may find nothing to merge."""
        spec = self.specs[index]
        if spec.is_dense or opaque or is_open(num_tokens):
            return not spec.is_dense
        return spec.ratio.most_removed(num_tokens - self.num_prefix_tokens) > 0

    def merges_later(self, index: int, num_tokens: int, opaque: bool = False) -> bool:
        """Whether a layer after `index` can merge anything in a sequence of `num_tokens`, if none merges before it."""
        return any(self.merges(later, num_tokens, opaque) for later in range(index + 1, len(self.specs)))

    def runs(self, index: int) -> bool:
        """Whether anything that layer `index` computes is read."""
        return self.num_run is None or index < self.num_run

    def hidden_states(self, captured: tuple, unmerge: bool) -> tuple:
        """What a caller gets of the `captured` hidden states, one before each layer and one after the last.

        Args:
            unmerge (`bool`): at the original length, all of them. Otherwise they keep their own lengths, except those
                of `reads`, which come with the tokens of the last of these.

        Returns:
            As many entries; `None` after a layer that did not run.
        """
        # Layers that were dropped out have no entry.
        places = self.filled if len(captured) == len(self.filled) else range(len(self.slots))
        returned = []
        for index, hidden_state in zip(places, captured):
            tokens = self.slots[index]
            if hidden_state is None or (index > 0 and not self.runs(index - 1)):
                hidden_state = None
            elif unmerge:
                hidden_state = tokens.unmerge(hidden_state)
            elif index in self.reads:
                hidden_state = tokens.merged_into(self.slots[max(self.reads)], hidden_state)
            returned.append(hidden_state)
        return tuple(returned)
