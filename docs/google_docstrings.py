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

"""Reads docstrings in the style of Hugging Face as those of Google, for the reference that `make docs` builds.

``model (`torch.nn.Module`, *optional*, defaults to `None`): text`` becomes ``model (torch.nn.Module): text``, since
defaults are in the signature, and a link such as ``[`PiToMeConfig`]`` leads to the entry of that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


_SECTION = re.compile(r"^(Args|Attributes):$")
_ENTRY = re.compile(r"^    (?P<names>\w+(?:, \w+)*)(?: \((?P<type>.*?)\))?(?:\.|:(?: (?P<text>.*))?)$")
_LINK = re.compile(r"\[`~?([\w.]+)`\](?![\[(])")


def as_google(docstring: str, links: Mapping[str, str], stars: Mapping[str, str]) -> str:
    """A docstring as the parser for Google's style reads it.

    Args:
        docstring (`str`): without its indentation.
        links (`Mapping[str, str]`): the last part of a documented name → the whole name.
        stars (`Mapping[str, str]`): the name of a parameter with stars → the stars.
    """
    lines: list[str] = []
    for entry in _entries(_LINK.sub(lambda match: _link(match[1], links), docstring)):
        match = _ENTRY.match(entry[0]) if len(entry) > 1 or entry[0].startswith("    ") else None
        if match is None:
            lines += entry
            continue
        kind = re.split(r",? ?\*optional\*", match["type"] or "")[0]
        plain = re.sub(r"\[`(\w+)`\]\[[\w.]+\]|`", r"\1", kind)
        plain = re.sub(r", (?![^\[]*\])| or ", " | ", plain) if " of " not in plain else plain
        simple = not re.search(r"[():]", plain)  # of others, such as shapes, the parser would lose a part
        text = " ".join(
            [
                f"{kind}." if kind and (not simple or not match["text"] and len(entry) == 1) else "",
                match["text"] or "",
                *map(str.strip, entry[1:]),
            ]
        )
        for name in match["names"].split(", "):
            given = f" ({plain})" if plain and simple else ""
            lines.append(f"    {stars.get(name, '')}{name}{given}: {text.strip()}")
    return "\n".join(lines)


def _entries(docstring: str) -> Iterator[list[str]]:
    """The lines of a docstring; an entry of a section with its continuation is one list, anything else a line each."""
    inside, entry = False, []
    for line in docstring.splitlines():
        if inside and entry and line.startswith(" " * 8):
            entry.append(line)
            continue
        if entry:
            yield entry
            entry = []
        inside = _SECTION.match(line) is not None or inside and (not line or line.startswith("    "))
        if inside and line.startswith("    "):
            entry = [line]
        else:
            yield [line]
    if entry:
        yield entry


def _link(name: str, links: Mapping[str, str]) -> str:
    last = name.rpartition(".")[2]
    return f"[`{last}`][{links[last]}]" if last in links else f"`{last}`"
