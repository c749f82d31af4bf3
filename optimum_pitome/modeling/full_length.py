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

"""Layers between which the model does more than call one after the other: each returns every original token.

What merges in one of them comes back before the next step of the model, which finds the grid that it knows, and is
taken out again at the beginning of the next layer, where the vectors of a group are still equal. That costs two copies
of the hidden states, little beside a layer's products of matrices.
"""

from __future__ import annotations

import copy
import functools

from torch import nn

from .layer import MergingLayer
from .state import STATE_KEY, MergeState


class FullLengthLayer(MergingLayer):
    """A layer that takes and returns every original token, `(B, N, dim)`, whatever has merged."""

    returns_every_token = True

    def forward(self, hidden_states, *args, **kwargs):
        state: MergeState | None = kwargs.get(STATE_KEY)
        if state is None:
            return super().forward(hidden_states, *args, **kwargs)
        tokens = state.entering(self.pitome_index).to(hidden_states.device)
        hidden_states = super().forward(tokens.compress(hidden_states), *args, **kwargs)
        return state.slots[self.pitome_index + 1].unmerge(hidden_states)


def run_with_state(encoder: nn.Module, *args, **kwargs):
    """`Architecture.forward` of an encoder that keeps its keyword arguments from its layers, and that calls them in a
    `forward` of its own: that runs, on a copy of the encoder that shares all but its list of layers."""
    state, architecture = kwargs[STATE_KEY], encoder.pitome.architecture
    layers = architecture.find_layers(encoder)
    with_state = [functools.partial(layer, **{STATE_KEY: state}) for layer in layers]
    shallow = copy.copy(encoder)
    vars(shallow)[architecture.layers] = [*with_state, *getattr(encoder, architecture.layers)[len(layers) :]]
    return type(encoder).forward(shallow, *args, **kwargs)
