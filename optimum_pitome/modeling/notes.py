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

"""Warnings about settings: each is told once, and by [`warn_once`] not while a load looks ahead: what is told before
the weights are read scrolls away under what transformers tells about them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any


_ahead: ContextVar[bool] = ContextVar("pitome_looking_ahead", default=False)


def warn_once(logger: Any, text: str) -> None:
    if not _ahead.get():
        logger.warning_once(text)


@contextlib.contextmanager
def looking_ahead() -> Iterator[None]:
    """Within, nothing is told: the same checks come again."""
    token = _ahead.set(True)
    try:
        yield
    finally:
        _ahead.reset(token)
