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

"""Checks of the fields of [`PiToMeConfig`]: each returns the value, or says what is accepted instead."""

from __future__ import annotations

import difflib
from typing import Any


#: Version of the fields. Minor: fields were added. Major: the meaning of a field changed.
FORMAT_VERSION = "1.0"


def check_version(version: Any) -> bool:
    """Whether `version` is a newer minor version; refuses what this package cannot read."""
    try:
        major, minor = (int(part) for part in str(version).split("."))
    except ValueError:
        raise ValueError(f"format_version={version!r}: expected two numbers, such as {FORMAT_VERSION!r}.") from None
    own_major, own_minor = (int(part) for part in FORMAT_VERSION.split("."))
    if major > own_major:
        raise ValueError(
            f"This PiToMe configuration has format {version}; this optimum_pitome reads up to {own_major}.x. "
            "Upgrade optimum_pitome: pip install -U optimum_pitome"
        )
    return major == own_major and minor > own_minor


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str | None:
    if value is None or value in choices:
        return value
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name}={value!r} is not known. Accepted: {', '.join(map(repr, choices))}.{hint}")


def check_bool(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"{name}={value!r}: expected True, False, or None for the architecture's default.")


def check_number(name, value, low, high, listable=False, optional=False, open_end=False):
    interval = f"[{low:g}, {high:g}{')' if open_end else ']'}"
    accepted = f"a number in {interval}" + (" or a list of them, one per layer" if listable else "")
    if value is None and optional:
        return None
    if isinstance(value, (list, tuple)) and listable:
        if not value:
            raise ValueError(f"{name}=[] is empty: expected {accepted}.")
        return [check_number(f"{name}[{i}]", item, low, high, open_end=open_end) for i, item in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r}: expected {accepted}.")
    value = float(value)
    if not (low <= value < high if open_end else low <= value <= high):
        hint = ""
        if name.startswith("ratio") and value < low:
            hint = " A layer can merge at most half of its tokens; ratio is the fraction that it keeps."
        raise ValueError(f"{name}={value:g} is out of range: expected {accepted}.{hint}")
    return value


def check_count(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"{name}={value!r}: expected a whole number of at least 0, or None.")


def check_token_ids(name: str, value: Any) -> list[int] | None:
    if value is None:
        return None
    items = list(value) if isinstance(value, (list, tuple)) else None
    if items is None or any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in items):
        raise ValueError(
            f"{name}={value!r}: expected a list of token ids, whole numbers of at least 0, such as "
            "[tokenizer.mask_token_id], or None."
        )
    if len(set(items)) != len(items):
        raise ValueError(f"{name}={value!r} names a token twice.")
    return items


def check_layers(layers: Any) -> list[int] | None:
    if layers is None:
        return None
    items = list(layers) if isinstance(layers, (list, tuple, range)) else None
    if not items or any(isinstance(item, bool) or not isinstance(item, int) for item in items):
        raise ValueError(
            f"layers={layers!r}: expected a list of layer indices such as [0, 1, 2], or None for the default."
        )
    if len(set(items)) != len(items):
        raise ValueError(f"layers={layers!r} names a layer twice.")
    return items
