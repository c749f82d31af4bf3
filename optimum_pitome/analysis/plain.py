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

"""[`Plain`]: what was found, as plain data for `--json`, for files and for other programs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Plain:
    """A dataclass that can be had as plain data."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain data: lists, texts, numbers, and `None` for a number that is not finite."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` to a file, and makes its folder."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{as_json(self)}\n", encoding="utf-8")


def as_json(value: Any) -> str:
    """A JSON document, with all digits."""
    return json.dumps(plain(value), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """What JSON can say of a value."""
    if isinstance(value, Plain):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value):
        return Plain.to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, os.PathLike) else value
