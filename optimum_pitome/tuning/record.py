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

"""What a search wrote down, and goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ..analysis.timing import Timing
from ..configuration.config import PiToMeConfig
from ..evaluation.json_lines import JsonLines


def _key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return entry["part"], json.dumps(entry["settings"], sort_keys=True)


class SearchRecord:
    """The file of a search: whose it is, every setting with its losses, and what was timed.

    Args:
        path (`str`, *optional*): the file, which need not be there. `None`: nothing is written.

    Raises:
        ValueError: if the file holds something else.
    """

    def __init__(self, path: str | os.PathLike | None):
        self._lines = JsonLines(path, "a line of a search")
        self._losses = {_key(entry): entry["losses"] for entry in self._lines.entries if "losses" in entry}

    @property
    def num_settings(self) -> int:
        """So many settings it holds, each once."""
        return len({settings for _, settings in self._losses})

    @property
    def _head(self) -> Mapping[str, Any] | None:
        return self._lines.entries[0] if self._lines.entries else None

    def budget_of(self, speed_up: float) -> float | None:
        """The `flops_ratio` that was found for a speed-up; `None` if the search is only beginning."""
        if self._head is None:
            return None
        if self._head.get("speed_up") != speed_up:
            raise ValueError(self._another)
        return self._head["flops_ratio"]

    def begin(self, identity: str, **speed: float) -> None:
        """Starts a search, or goes on with it.

        Args:
            identity (`str`): what tells the search from others.
            speed: `speed_up` and the `flops_ratio` that it takes, where a speed-up was asked for.

        Raises:
            ValueError: if the file belongs to another search.
        """
        if self._head is None:
            self._lines.add({"search": identity, **speed})
        elif self._head.get("search") != identity or self._head.get("speed_up") != speed.get("speed_up"):
            raise ValueError(self._another)

    @property
    def _another(self) -> str:
        return (
            f"{self._lines.path} belongs to another search: of another model, other inputs, settings or another "
            "budget. Name another file (on the command line another folder, -o), or delete it."
        )

    def losses(self, config: PiToMeConfig, part: str, measure: Callable[[], list[float]]) -> list[float]:
        """What was measured of these settings over a part of the samples; if nothing was, what `measure` says."""
        entry = {"settings": config.to_pitome_dict(), "part": part}
        if _key(entry) not in self._losses:
            entry["losses"] = self._losses[_key(entry)] = measure()
            self._lines.add(entry)
        return self._losses[_key(entry)]

    def timing_of(self, config: PiToMeConfig, measure: Callable[[], Timing]) -> Timing:
        """What was measured of these settings; if nothing was, what `measure` says."""
        settings = config.to_pitome_dict()
        for entry in self._lines.entries:
            if "timing" in entry and entry["settings"] == settings:
                return Timing(**entry["timing"])
        timing = measure()
        self._lines.add({"settings": settings, "timing": asdict(timing)})
        return timing
