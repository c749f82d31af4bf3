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

"""A model in other runtimes, and with int8 weights, asked by the judge that asks it in PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ..configuration.config import PiToMeConfig
from .judges import TOWERS


class Elsewhere(Protocol):
    """Where a model runs beside PyTorch: [`~optimum_pitome.export.runtimes.Runtime`]."""

    runtime: str
    quantize: str | None
    name: str

    def load(self, model: nn.Module, key: str, batch: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
        """`model` as it merges now, to be called in its place on batches such as `batch`. `key` tells its settings
        from others."""


@dataclass
class Way:
    """What answers: a row of a table.

    Attributes:
        settings_name (`str`): what tables call the settings.
        config ([`PiToMeConfig`], *optional*): the settings. `None`: those that the model has.
        merges (`bool`): `False`: the dense model.
        elsewhere ([`Elsewhere`], *optional*): `None`: PyTorch, in the model's dtype.
        forward (`Callable`, *optional*): the model there, once it is loaded.
    """

    settings_name: str
    config: PiToMeConfig | None
    merges: bool = True
    elsewhere: Elsewhere | None = None
    forward: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.settings_name if self.elsewhere is None else f"{self.settings_name}, {self.elsewhere.name}"

    def load(self, model: nn.Module, batch: Mapping[str, Any]) -> None:
        """Loads what answers in place of `model`, which has the settings at hand."""
        if self.elsewhere is not None:
            self.forward = self.elsewhere.load(model, self.settings_name, batch)


def check_elsewhere(model: nn.Module) -> None:
    """
    Raises:
        ValueError: if `model` has two encoders, each of which would be a file of its own.
    """
    if all(hasattr(model, name) for name in TOWERS):
        raise ValueError(
            f"A {type(model).__name__} has two encoders, which are exported apart, so it is evaluated in PyTorch "
            "alone. Evaluate a model with one encoder in other runtimes."
        )


@contextlib.contextmanager
def answered_by(model: nn.Module, forward: Callable[..., Any] | None) -> Iterator[None]:
    """Inside, calling `model` calls `forward`; nothing changes where that is `None`.

    Raises:
        ValueError: if nobody called it, so that whatever was measured is something else.
    """
    if forward is None:
        yield
        return
    calls = 0

    def instead(**inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(**inputs)

    before = vars(model).get("forward")
    model.forward = instead
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before
    if not calls:
        raise ValueError(
            f"The judge did not call this {type(model).__name__} itself, so other runtimes cannot answer in its "
            "place. Leave runtimes out, or use a judge that calls the model with inputs by name."
        )
