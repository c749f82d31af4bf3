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

"""The rows of a comparison in a file of JSON lines, which a comparison that was interrupted goes on from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


#: Of what a row holds; a row of another version is measured again.
VERSION = 1


def key_of(task: Mapping[str, Any], settings: Mapping[str, Any] | None) -> str:
    """What a row's numbers follow from: the task as it was asked for, and the settings (the seed is one of them);
    `None` for the dense model."""
    text = json.dumps([VERSION, dict(task), settings and dict(settings)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RowFile:
    """The rows by their keys. Each is in the file as soon as it is known.

    Args:
        path (`str`, *optional*): the file, which need not be there. `None`: rows are kept in memory only.

    Raises:
        ValueError: if the file holds something else. (A last line that was cut off is taken out.)
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self.path = None if path is None else Path(path)
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path.read_bytes())

    def _read(self, content: bytes) -> None:
        *lines, last = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self.path}, line {number}: this is no row of a comparison. Name another folder, or delete the "
                    "file."
                ) from None
        if last:  # whoever wrote it was killed
            self.path.write_bytes(content[: len(content) - len(last)])

    def add(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps a row, and returns it."""
        self.rows[key] = {**row, "key": key}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[key]) + "\n")
        return self.rows[key]
