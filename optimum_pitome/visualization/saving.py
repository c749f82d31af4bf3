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

"""Pictures and texts as files, none of which is ever half written."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .samples import PictureGroups
from .texts import TextGroups, page, svg


#: Milliseconds of a layer in an animation.
_DURATION = 700


def save_picture(
    sample: PictureGroups,
    folder: str | os.PathLike,
    name: str,
    layers: Sequence[int] | None = None,
    side: int = 336,
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes `name.png`, `name-layers.gif` and `name.json`, each whole, and returns their paths.

    Args:
        layers (`Sequence[int]`, *optional*), side (`int`): see [`~samples.PictureGroups.picture`].
        about (`Mapping`, *optional*): what else the JSON says.
    """
    still, moving = io.BytesIO(), io.BytesIO()
    sample.picture(layers, side).save(still, "PNG", optimize=True)
    first, *others = sample.animation(side)
    first.save(moving, "GIF", save_all=True, append_images=others, duration=_DURATION, loop=0)
    numbers = json.dumps({**(about or {}), **sample.summary()})
    files = {".png": still.getvalue(), "-layers.gif": moving.getvalue(), ".json": numbers.encode()}
    return write_files(Path(folder), {name + ending: content for ending, content in files.items()})


def save_texts(
    samples: Sequence[TextGroups],
    folder: str | os.PathLike,
    name: str = "text",
    layers: Sequence[int] | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes `name.html`, `name.svg` and `name.json`, each whole, and returns their paths. Arguments as in
    [`save_picture`]."""
    numbers = json.dumps({**(about or {}), "samples": [sample.summary() for sample in samples]}, ensure_ascii=False)
    files = {".html": page(samples, layers), ".svg": svg(samples, layers), ".json": numbers}
    return write_files(Path(folder), {name + ending: content.encode() for ending, content in files.items()})


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files under other names first, so that those with their own names are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = {folder / f".{name}.unfinished": folder / name for name in files}
    try:
        for path, content in zip(unfinished, files.values()):
            path.write_bytes(content)
        for path, final in unfinished.items():
            path.replace(final)
    finally:
        for path in unfinished:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return list(unfinished.values())
