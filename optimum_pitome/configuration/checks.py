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

"""Checks of single values: each returns the value as plain data, or says what is accepted instead. [`Setting`] holds
what is known of a field.

Imports nothing heavy: the command line checks its options here before it imports torch.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import math
import os
import re
import reprlib
import textwrap
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


#: Version of the fields. Minor: fields were added. Major: the meaning of a field changed.
FORMAT_VERSION = "1.2"

#: More layers than any model has: what is longer is a mistake, and is not worth reading.
MAX_ENTRIES = 1000
_MAX_PATH = 4096
MAX_COUNT = 2**31 - 1


class NotReachedError(ValueError):
    """What was asked for was tried, and is not reached: a tolerance, a bound, a speed."""


class _Short(reprlib.Repr):
    """A `repr` that is short and quick whatever it gets, and that never raises."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 100, 100
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 12

    def repr_int(self, x, level):
        # Python refuses to write numbers of more than 4,300 digits.
        return repr(x) if abs(x) < 10**30 else f"<a number of about {int(x.bit_length() * 0.30103) + 1} digits>"

    def repr_dict(self, x, level):
        # The original sorts all the keys first, and so does the one for sets.
        if level <= 0:
            return "{...}"
        items = itertools.islice(x.items(), self.maxdict)
        shown = [f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in items]
        return "{" + ", ".join(shown + ["..."] * (len(x) > self.maxdict)) + "}"

    def repr_set(self, x, level):
        return f"{type(x).__name__}({self.repr_list(list(itertools.islice(x, self.maxlist + 1)), level)})"

    repr_frozenset = repr_set

    def repr_bytes(self, x, level):
        return self.repr_str(x, level)

    def repr1(self, x, level):
        try:
            return super().repr1(x, level)
        except Exception:  # somebody's __repr__, or somebody's class with the name of a built-in one
            return f"<{type(x).__name__}>"


_short = _Short()


def show(value: Any, limit: int = 300) -> str:
    """How a message quotes `value`: its `repr`, cut to `limit` characters."""
    return text if len(text := _short.repr(value)) <= limit else f"{text[: limit - 60]}...{text[-50:]}"


def plain(value: Any) -> Any:
    """Numbers of numpy and torch, and one-dimensional arrays of them, as Python's; anything else as it is.

    What counts is the number as it is written: `numpy.float32(0.9)` is 0.9, not the 0.8999999761581421 that it holds.
    """
    package = str(type(value).__module__).partition(".")[0]
    if package not in ("numpy", "torch") or not hasattr(value, "tolist"):
        return value
    try:
        array = value.detach().cpu().numpy() if package == "torch" else value
        if array.ndim > 1 or array.size > MAX_ENTRIES or array.dtype.kind not in "fiu":
            return value
        numbers = [float(str(item)) if array.dtype.kind == "f" else int(item) for item in array.reshape(-1)]
        return numbers if array.ndim else numbers[0]
    except (TypeError, RuntimeError):  # a tensor without data (meta), or of a kind that numpy does not have
        return value


def is_number(value: Any) -> bool:
    """Whether `value` is a number, of Python, numpy or torch; truth values are none."""
    return isinstance(number := plain(value), (int, float)) and not isinstance(number, bool)


def is_text(value: str) -> bool:
    """Whether `value` can be written to a file: lone surrogates cannot, nor NUL in a path."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def leads_nowhere(name: str) -> bool:
    """Whether `name` can only be a path, and there is nothing; a name with one slash may be one of the Hub."""
    is_path = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
    return is_path and not os.path.exists(name)


def similar(name: Any, choices: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The one of `choices` that `name` may be a misspelling of."""
    close = difflib.get_close_matches(name, choices, 1, cutoff) if isinstance(name, str) and len(name) < 50 else []
    return close[0] if close else None


def check_version(version: Any) -> bool:
    """Whether `version` is a newer minor version; refuses what this package cannot read."""
    found = re.fullmatch(r"([0-9]{1,6})\.([0-9]{1,6})", str(version) if type(version) in (str, float) else "")
    if found is None:
        raise ValueError(f"format_version={show(version)}: expected two numbers, such as {FORMAT_VERSION!r}.")
    major, minor = map(int, found.groups())
    own_major, own_minor = map(int, FORMAT_VERSION.split("."))
    if major > own_major:
        raise ValueError(
            f"This PiToMe configuration has format {version} (format_version); this optimum_pitome reads up to "
            f"{own_major}.x. Upgrade optimum_pitome: pip install -U optimum_pitome"
        )
    return major == own_major and minor > own_minor


def check_choice(name: str, value: Any, choices: Collection[str], register: str = "") -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and value in choices:
        return next(choice for choice in choices if choice == value)  # no subclass of str
    hint = f" Did you mean {close!r}?" if (close := similar(value, list(choices))) else ""
    if register and isinstance(value, str):
        hint += f" If it is your own, import the module that registers it ({register}) first; on the command line "
        hint += "with --import."
    raise ValueError(f"{name}={show(value)} is not known. Accepted: {', '.join(map(repr, choices))}.{hint}")


def check_bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{name}={show(value)}: expected True, False, or None for the architecture's default.")


def check_number(name, value, low, high, listable=False, open_end=False):
    interval = f"[{low:g}, {high:g}{')' if open_end else ']'}"
    accepted = f"a number in {interval}" + (" or a list of them, one per layer" if listable else "")
    given = plain(value)
    if isinstance(given, (list, tuple)) and listable:
        if not 0 < len(given) <= MAX_ENTRIES:
            what = f" has {len(given)} entries" if given else "=[] is empty"
            raise ValueError(f"{name}{what}: expected {accepted}.")
        return [check_number(f"{name}[{i}]", item, low, high, open_end=open_end) for i, item in enumerate(given)]
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ValueError(f"{name}={show(value)}: expected {accepted}.")
    try:
        number = float(given) + 0.0  # no negative zero
    except OverflowError:  # an int that no float can hold
        number = math.inf if given > 0 else -math.inf
    if not (low <= number < high if open_end else low <= number <= high):
        hint = ""
        if name.startswith("ratio") and number < low:
            hint = " A layer can merge at most half of its tokens; ratio is the fraction that it keeps."
        elif name == "ratio" and number > high:
            fraction = f"{number / 100:g}, a fraction"
            budget = f"{{'flops_ratio': {show(given)}}}, so many times fewer operations"
            hint = f" Did you mean {fraction if 100 * low <= number <= 100 else budget}?"
        raise ValueError(f"{name}={show(given)} is out of range: expected {accepted}.{hint}")
    return number


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check_count(name: str, value: Any, low: int = 0) -> int:
    number = plain(value)
    if not _is_whole(number, low, MAX_COUNT):
        raise ValueError(f"{name}={show(value)}: expected a whole number of at least {low}, or None.")
    return int(number)


def check_picture_size(name: str, value: Any) -> int | list[int]:
    given = plain(value)
    sides = [plain(side) for side in (given if isinstance(given, (list, tuple)) and len(given) == 2 else [given])]
    if not all(_is_whole(side, 1, MAX_COUNT) for side in sides):
        raise ValueError(f"{name}={show(value)}: expected pixels of a side, such as 224, or [height, width], or None.")
    return int(sides[0]) if len(set(sides)) == 1 else [int(side) for side in sides]


def check_integers(item: str, accepted: str, low: int, high: int, may_be_empty: bool = False) -> Callable:
    """The check of a list of different `item`s; `accepted` says which there are."""

    def check(name: str, value: Any) -> list[int]:
        given = plain(value)
        is_list = isinstance(given, (list, tuple, range)) and (len(given) > 0 or may_be_empty)
        if is_list and len(given) > MAX_ENTRIES:
            raise ValueError(f"{name}={show(value)} has {len(given)} entries; at most {MAX_ENTRIES} are accepted.")
        items = [plain(item) for item in given] if is_list else []
        if not is_list or not all(_is_whole(item, low, high) for item in items):
            raise ValueError(f"{name}={show(value)}: expected a list of {accepted}, or None for the default.")
        if len(set(items)) != len(items):
            raise ValueError(f"{name}={show(value)} names a {item} twice.")
        return [int(item) for item in items]

    return check


def check_path(name: str, value: Any) -> str:
    if isinstance(value, str) and len(value) <= _MAX_PATH and is_text(value):
        return value
    raise ValueError(f"{name}={show(value)}: expected a Hub id or a local path, as a string.")


#: Fields that say how much merges: one of them at most.
BUDGETS = ("ratio", "flops_ratio", "num_tokens")


def check_budget(settings: Mapping[str, Any]) -> None:
    """Refuses settings that say twice how much merges.

    Raises:
        ValueError: if there is more than one budget, or a profile that nothing is spread by.
    """
    given = [name for name in BUDGETS if settings.get(name) is not None]
    if len(given) > 1:
        shown = ", ".join(f"{name}={show(settings[name])}" for name in given)
        raise ValueError(f"{shown}: each of them says how much merges. Give one of {', '.join(BUDGETS)}.")
    if settings.get("profile") is not None and given == ["ratio"]:
        raise ValueError(
            f"profile={settings['profile']!r} spreads a budget over the layers, and here is none, but a ratio "
            f"({show(settings['ratio'])}), which says what each of them does. Give flops_ratio or num_tokens beside "
            "profile, in place of ratio; or leave profile out."
        )


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
        usual: what `None` stands for where an architecture says nothing else: what measured best (docs/settings.md).
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


def declare(help, check=None, default=None, choices=None, register="", **more: Any) -> Any:
    """The default of a field in [`Settings`], with its [`Setting`]. Where there are choices, they make the check."""
    check = check or functools.partial(check_choice, choices=choices, register=register)
    return field(default=default, metadata={"setting": Setting(help, check, choices, **more)})
