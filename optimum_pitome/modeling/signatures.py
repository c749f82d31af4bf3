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

"""The parameters of other people's `forward`s, and the arguments of a call by their names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


@functools.lru_cache(maxsize=1024)
def parameters(method: Callable) -> tuple[inspect.Parameter, ...]:
    """The parameters of a method, without `self`. Not for code that `torch.compile` traces: it refuses caches."""
    return tuple(inspect.signature(method).parameters.values())[1:]


def names(method: Callable) -> tuple[str, ...]:
    """The names of the parameters of a method, without `self`."""
    return tuple(parameter.name for parameter in parameters(method))


def by_name(method: Callable, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a method, `self` aside, by name."""
    return {**dict(zip(list(inspect.signature(method).parameters)[1:], args)), **kwargs}
