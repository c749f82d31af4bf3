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
"""What came of transformers' tests, as Markdown."""

from __future__ import annotations

from collections import Counter
from typing import Any


def write_table(found: dict[str, dict[str, Any]], settings: list[str]) -> str:
    """A row for each family, then the findings, what is unsteady or allowed, and the classes that stayed dense.

    Args:
        found (`dict`): id of a test → what the plugin says of it.
        settings (`list[str]`): as they were given.
    """
    families = sorted({verdict["family"] for verdict in found.values()})
    columns = [f"as dense at {setting}" for setting in settings]
    header = ["family", "pass dense", "make a model that merges", *columns, "merged tokens", "allowed", "unsteady"]
    header += ["findings", "skipped dense", "fail dense"]
    rows = [_row(family, [v for v in found.values() if v["family"] == family], settings) for family in families]
    if len(rows) > 1:
        rows.append(_row("all", list(found.values()), settings))
    lines = [_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, rows)]
    lines += ["", "Findings (pass dense, and fail twice when rewritten):", ""]
    lines += _verdicts(found, "finding") or ["- none"]
    lines += ["", "Unsteady (pass dense, and fail when rewritten, but not with other random numbers):", ""]
    lines += _verdicts(found, "unsteady") or ["- none"]
    lines += ["", "Failures that merging may bring:", ""]
    reasons = Counter(
        (name.rpartition("::")[2], verdict["reason"])
        for name, of_test in found.items()
        for verdict in of_test["settings"].values()
        if verdict["outcome"] == "allowed"
    )
    lines += [f"- `{name}` ({count} ×): {reason}" for (name, reason), count in sorted(reasons.items())] or ["- none"]
    lines += ["", "Classes that stayed dense:", ""]
    dense = {name: reason for verdict in found.values() for name, reason in verdict["left_dense"].items()}
    lines += [f"- `{name}`: {_short(reason)}" for name, reason in sorted(dense.items())] or ["- none"]
    return "\n".join(lines) + "\n"


def _row(family: str, verdicts: list[dict[str, Any]], settings: list[str]) -> list[str]:
    dense = Counter(verdict["dense"] for verdict in verdicts)
    judged = [verdict["settings"] for verdict in verdicts if verdict["settings"]]
    outcomes = Counter(of["outcome"] for verdict in judged for of in verdict.values())
    passed = [sum(of.get(setting, {}).get("outcome") == "passed" for of in judged) for setting in settings]
    merged = sum(any(of["merges"] for of in verdict.values()) for verdict in judged)
    counts = [dense["passed"], len(judged), *passed, merged, outcomes["allowed"], outcomes["unsteady"]]
    return [family, *map(str, [*counts, outcomes["finding"], dense["skipped"], dense["failed"]])]


def _verdicts(found: dict[str, dict[str, Any]], outcome: str) -> list[str]:
    return [
        f"- `{name}` at {setting}: {_short(verdict['message'])}"
        for name, of_test in found.items()
        for setting, verdict in of_test["settings"].items()
        if verdict["outcome"] == outcome
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= 200 else f"{text[:197]}..."
