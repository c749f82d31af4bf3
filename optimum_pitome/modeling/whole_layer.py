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

"""Layers of which nobody wrote the two halves: they merge after the whole layer, and cost its MLP once more."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .layer import MergingLayer
from .signatures import names


class WholeLayer(MergingLayer):
    """Runs the layer's own `forward`, then merges."""

    merges_after = "layer"
    #: What the layer's own `forward` calls its tokens.
    tokens_name: str

    def forward(self, *args, **kwargs) -> torch.Tensor:
        if not args:
            args = (kwargs.pop(self.tokens_name),)
        return super().forward(*args, **kwargs)

    def _whole(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        output = super()._whole(hidden_states, *args, **kwargs)
        if not isinstance(output, torch.Tensor):
            raise RuntimeError(
                f"{type(self).__name__} returned a {type(output).__name__}, and only a tensor can merge after a "
                "whole layer. Write a MergingLayer with its two halves, which may return what the encoder expects."
            )
        return output


#: Dense class → the class that merges after it. One for each, so that a second registration finds layers rewritten.
_MADE: dict[type[nn.Module], type[WholeLayer]] = {}


def whole_layer(dense_class: type[nn.Module]) -> type[WholeLayer]:
    """The class that rewrites `dense_class` without knowing its halves."""
    if dense_class not in _MADE:
        path = f"{dense_class.__module__}.{dense_class.__qualname__}".replace(".", "_")
        about = {
            "__module__": __name__,
            "__qualname__": path,
            "tokens_name": next(iter(names(dense_class.forward)), ""),
        }
        made = type(dense_class.__name__, (WholeLayer, dense_class), about)
        _MADE[dense_class] = globals()[path] = made  # where pickle looks for it
    return _MADE[dense_class]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"This model was pickled with a layer that is not registered here ({name}). Call register_architecture for "
        "its encoder first, as in the process that wrote it."
    )
