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

"""Rewrites the docstrings that `make docs` reads (google_docstrings.py)."""

from __future__ import annotations

from typing import Any

import griffe
from google_docstrings import as_google


_STARS = {"variadic positional": "*", "variadic keyword": "**"}


class GoogleDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed.

    Args:
        links (`dict[str, str]`, *optional*): the last part of a documented name → the whole name.
    """

    def __init__(self, links: dict[str, str] | None = None):
        self.links = links or {}

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring is None:
            return
        parameters = obj.parameters if isinstance(obj, griffe.Function) else ()
        stars = {each.name: _STARS[each.kind.value] for each in parameters if each.kind.value in _STARS}
        obj.docstring.value = as_google(obj.docstring.value, self.links, stars)
