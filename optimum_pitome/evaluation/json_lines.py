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

"""A file of JSON lines that grows as things become known, so that what was interrupted can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """What a file of JSON lines holds, and a way to add to it.

    Args:
        path (`str`, *optional*): the file, which need not be there. `None`: nothing is written.
        what (`str`): what each line is, for messages.

    Attributes:
        entries (`list[dict]`): the lines so far. A last line that was cut off is taken out, of the file, too.

    Raises:
        ValueError: if another line is no JSON object.
    """

    def __init__(self, path: str | os.PathLike | None, what: str):
        self.path = None if path is None else Path(path)
        self.entries: list[dict[str, Any]] = []
        if self.path is None or not self.path.exists():
            return
        content = self.path.read_bytes()
        *lines, last = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise ValueError(
                    f"{self.path}, line {number}: this is not {what}. Name another place for it, or delete the file."
                )
            self.entries.append(entry)
        if last:  # whoever wrote it was killed
            os.truncate(self.path, len(content) - len(last))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Adds a line; it is in the file at once."""
        self.entries.append(dict(entry))
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.entries[-1]) + "\n")
