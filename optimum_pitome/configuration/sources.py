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

"""What a refusal is about: which part of a model, and where its settings came from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def about_part(name: str | None) -> Iterator[None]:
    """Refusals inside the block begin with the part whose settings they are about. `None`: with none."""
    try:
        yield
    except ValueError as error:
        if name is not None:
            error.args = (f"parts[{name!r}]: {error}",)
        raise


@contextlib.contextmanager
def settings_are(source: str, advice: str = "") -> Iterator[None]:
    """Refusals inside the block end with where the settings came from, and what to do. Empty: with nothing."""
    try:
        yield
    except ValueError as error:
        if source:
            error.args = (f"{error} (These settings are {source}.{advice})",)
        raise
