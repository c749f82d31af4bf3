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

"""A layer that is compiled by itself: `layer.compile()`, accelerate's `compile_regions`.

What makes one layer of a merged model another than the next (its place, its ratio, the state of the forward) stays
outside of what is compiled, so one graph serves all layers that do the same, whatever their lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .state import MergeState


if TYPE_CHECKING:
    from .layer import MergingLayer


@torch.compiler.disable(recursive=False, reason="A layer that is compiled by itself looks up what it does.")
def run_apart(
    layer: MergingLayer, state: MergeState, hidden_states: torch.Tensor, args: tuple, kwargs: dict[str, Any]
) -> torch.Tensor:
    """[`MergingLayer.forward`] in a forward that is not compiled itself: the compiler sees the layer's work alone."""
    run, *arguments = _begin(layer, state, hidden_states, args, kwargs)
    hidden_states, tokens = run(layer, hidden_states, *arguments)
    return _end(layer, state, hidden_states, tokens)


@torch.compiler.disable
def _begin(layer: MergingLayer, state: MergeState, *arguments) -> tuple[Any, ...]:
    run, *arguments = layer.begin(state, *arguments, traced=True)
    if state.watch is not None:  # by Python, which no graph holds
        run = torch.compiler.disable(run)
    return run, *arguments


@torch.compiler.disable
def _end(layer: MergingLayer, *arguments) -> torch.Tensor:
    return layer.end(*arguments)
