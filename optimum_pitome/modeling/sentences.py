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

"""Models of sentence-transformers, which are not imported here: the model of transformers in each."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_sentence_transformer(model: Any) -> bool:
    """Whether `model` is one of sentence-transformers, which need not be installed."""
    return any(base.__module__.startswith("sentence_transformers.") for base in type(model).__mro__)


def transformers_model(model: nn.Module) -> nn.Module:
    """The model of transformers in one of sentence-transformers; any other is one.

    Raises:
        ValueError: if there is none in it.
    """
    if not is_sentence_transformer(model):
        return model
    for module in model.modules():
        if hasattr(module, "config") and hasattr(module, "name_or_path"):
            return module
    names = ", ".join(type(module).__name__ for module in model.children())
    raise ValueError(
        f"{type(model).__name__} has no model of transformers in it (its modules: {names}), so it has no tokens to "
        "merge. Take one that embeds texts with a transformer."
    )
