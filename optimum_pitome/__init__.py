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

"""Faster transformers by merging redundant tokens (PiToMe). `AutoModel.from_pretrained(..., pitome=0.9)`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


__version__ = "0.1.0"

#: Public name → module. Imported on first use: `import optimum_pitome` stays light (no torch).
_EXPORTS = {
    "PiToMeConfig": ".configuration",
    "apply_pitome": ".modeling.rewrite",
    "remove_pitome": ".modeling.rewrite",
    "pitome_disabled": ".modeling.rewrite",
    "pitome_summary": ".analysis",
    "register_architecture": ".modeling.registry",
    "MergingLayer": ".modeling.layer",
    "UnsupportedArchitectureError": ".modeling.registry",
    "register_algorithm": ".merging",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .analysis import pitome_summary
    from .configuration import PiToMeConfig
    from .merging import register_algorithm
    from .modeling.layer import MergingLayer
    from .modeling.registry import UnsupportedArchitectureError, register_architecture
    from .modeling.rewrite import apply_pitome, pitome_disabled, remove_pitome
