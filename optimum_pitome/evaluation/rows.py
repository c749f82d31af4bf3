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
from typing import Any

from .json_lines import JsonLines


#: Of what a row holds; a row of another version is measured again.
VERSION = 1


def key_of(task: Mapping[str, Any], settings: Mapping[str, Any] | None) -> str:
    """What a row's numbers follow from: the task as it was asked for, and the settings, with their seed;
    `None` for the dense model."""
    text = json.dumps([VERSION, dict(task), settings and dict(settings)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RowFile:
    """The rows by their keys. Each is in the file as soon as it is known.

    Args:
        path (`str`, *optional*): the file, which need not be there. `None`: rows are kept in memory only.

    Raises:
        ValueError: if the file holds something else.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self._lines = JsonLines(path, "a row of a comparison")
        self.rows: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(self._lines.entries, start=1):
            if "key" not in row:
                raise ValueError(f"{path}, line {number}: this is not a row of a comparison. Name another folder.")
            self.rows[row["key"]] = row

    def add(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps a row, and returns it."""
        self.rows[key] = {**row, "key": key}
        self._lines.add(self.rows[key])
        return self.rows[key]
