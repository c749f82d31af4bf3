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

"""The one way in which this package replaces a method of another: docs/how_it_works.md lists all of them, with why.

Imports nothing heavy, since `import optimum_pitome` passes through it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


_MARK = "_pitome"


def wrap(owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Replaces `owner.name` by what `make` makes of it; a second time nothing happens.

    Args:
        owner: a class (a method of any kind, its own or an inherited one), a module, or an instance.
        name (`str`): what is replaced.
        make (`Callable`):
            From the function (of a class method the function in it, which takes the class) to its replacement,
            which gets the name, the signature and the docstring of the original.
    """
    found = inspect.getattr_static(owner, name) if isinstance(owner, type) else getattr(owner, name)
    kind = type(found) if isinstance(found, (classmethod, staticmethod)) else None
    original = found if kind is None else found.__func__
    if getattr(original, _MARK, False):
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _MARK, True)
    setattr(owner, name, replacement if kind is None else kind(replacement))
