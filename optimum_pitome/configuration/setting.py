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

"""[`Setting`]: all that is known of a field of [`PiToMeConfig`]."""

from __future__ import annotations

import functools
import inspect
import textwrap
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from .checks import check_choice


@dataclass(frozen=True)
class Setting:
    """What is known of a field: the checks, the documentation, the options of the command line and the defaults of
    `modeling/resolve.py` are made of these.

    Attributes:
        help (`str`): what it does, in sentences.
        check (`Callable[[str, Any], Any]`):
            From name and value to the value as plain data; a `ValueError` says what is accepted. It does not get the
            `None` of a field that may stay open.
        choices (`Collection[str]`, *optional*): the values, where they have names.
        usual: what `None` stands for where an architecture says nothing else: what measured best (README, "Settings").
        scope (`str`): whether it is set for each `"part"` of a model, for the `"model"`, or only in a `"file"`.
        read_by (`Callable[[Algorithm, Energy], bool]`, *optional*): which methods read it. `None`: all.
        name (`str`), type, default: as [`Settings`] declares them.
    """

    help: str
    check: Callable[[str, Any], Any]
    choices: Collection[str] | None = None
    usual: Any = None
    scope: str = "part"
    read_by: Callable[[Any, Any], bool] | None = None
    name: str = ""
    type: Any = None
    default: Any = None

    def checked(self, value: Any) -> Any:
        return None if value is None and self.default is None else self.check(self.name, value)

    def documentation(self) -> str:
        """The field's entry in the documentation of [`PiToMeConfig`]."""
        kinds = [kind for kind in typing.get_args(self.type) or [self.type] if kind is not type(None)]
        types = " or ".join(f"`{inspect.formatannotation(kind)}`" for kind in kinds).replace("typing.", "")
        default = f", defaults to `{self.default!r}`" if self.default is not None else ""
        usual = f", usually `{self.usual!r}`" if self.usual is not None else ""
        text = textwrap.fill(self.help, 119, initial_indent=" " * 12, subsequent_indent=" " * 12)
        return f"        {self.name} ({types}, *optional*{default}{usual}):\n{text}\n"


def declare(help: str, check: Callable[[str, Any], Any], default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(help, check, **more)})


def declare_choice(help: str, choices: Collection[str], register: str = "", **more: Any) -> Any:
    return declare(help, functools.partial(check_choice, choices=choices, register=register), choices=choices, **more)
