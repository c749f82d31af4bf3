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
"""A pytest plugin (`-p upstream.plugin`) that runs each test without merging, and then with it.

    pytest -p upstream.plugin --pitome=1 --pitome=0.9 --pitome-table=outputs/upstream.md tests/models/vit

What pytest says of a test is the verdict: it *passed* if it passes with every setting as it does without; it *failed*
if it passes without merging only, twice; and it was *skipped* if it does not pass without merging, or makes no model
that can merge. [`kinds`] says which failures merging may bring. Works with pytest-xdist.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
import unittest
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.runner import runtestprotocol
from transformers import set_seed

from .kinds import allowed, left_out
from .rewriting import Rewriting
from .table import write_table


_rewriting = Rewriting()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pitome")
    group.addoption("--pitome", action="append", default=[], help="a ratio, or settings as JSON; may be repeated")
    group.addoption("--pitome-table", help="where the table and the findings are written (Markdown)")


def pytest_configure(config: pytest.Config) -> None:
    # A failed subtest would be reported at once, before it is known whether it fails without merging, too.
    unittest.TestCase.subTest = lambda self, *args, **kwargs: contextlib.nullcontext()
    _rewriting.install()
    torch.set_num_threads(1)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Verdicts(config), "pitome-verdicts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    out = [item for item in items if left_out(item.name)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _judge(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _judge(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """The reports of the run that decides, with all that was found among the properties of the last."""
    started = time.monotonic()
    found = {"family": _family(item), "settings": {}, "rewritten": [], "left_dense": {}}
    reports = _run(item, nextitem, None)
    found["dense"] = outcome = _outcome(reports)
    last = reports
    for setting in item.config.getoption("pitome"):
        if outcome != "passed" or found.get("no_model"):
            break
        reports = _run(item, nextitem, json.loads(setting))
        found["no_model"] = not _rewriting.rewritten
        found["rewritten"] = sorted({*found["rewritten"], *_rewriting.rewritten})
        found["left_dense"] |= _rewriting.left_dense
        if found["no_model"] and _outcome(reports) == "passed":
            break
        verdict = {"outcome": _outcome(reports), "merges": _rewriting.merges}
        found["settings"][setting] = verdict
        if verdict["outcome"] == "passed":
            continue
        verdict["message"] = message = _message(reports)
        kind = allowed(found["family"], item.name, message) if verdict["merges"] else None
        if kind is not None:
            verdict |= {"outcome": "allowed", "reason": kind.reason}
        elif not _fails_again(item, nextitem, json.loads(setting)):
            verdict["outcome"] = "unsteady"
        else:
            verdict["outcome"] = "finding"
            last = [report for report in reports if not report.passed] or reports
            last[-1].sections.append(("pitome", f"passes without merging, and fails with {setting}"))
    if not any(verdict["outcome"] == "finding" for verdict in found["settings"].values()):
        last = last[:1]  # one report is enough where there is nothing to say
        if outcome != "passed" or found.get("no_model"):
            reason = "makes no model that can merge" if outcome == "passed" else f"{outcome} without merging"
            last[0].outcome, last[0].longrepr = "skipped", (str(item.path), 0, reason)
        else:
            last[0].when, last[0].outcome = "call", "passed"
    elif all(report.passed for report in last):  # it was skipped where it passed before
        last[-1].outcome = "failed"
    for report in last:
        if report.skipped and found["settings"]:
            report.outcome, report.longrepr = "failed", str(report.longrepr)
    found["seconds"] = round(time.monotonic() - started, 2)
    last[-1].user_properties.append(("pitome", found))
    return last


def _run(item: pytest.Item, nextitem: pytest.Item | None, setting, seed: int = 0) -> list[pytest.TestReport]:
    set_seed(seed)
    for name, module in list(sys.modules.items()):
        if name.endswith("test_modeling_common") and hasattr(module, "global_rng"):
            module.global_rng = random.Random(seed)
    np.random.seed(seed)
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    _rewriting.begin(setting)
    try:
        return runtestprotocol(item, nextitem=nextitem, log=False)
    finally:
        _rewriting.setting = None


def _fails_again(item: pytest.Item, nextitem: pytest.Item | None, setting) -> bool:
    """With other random numbers: some tests of transformers fail now and then."""
    dense = _outcome(_run(item, nextitem, None, seed=1))
    return dense == "passed" and _outcome(_run(item, nextitem, setting, seed=1)) != "passed"


def _outcome(reports: list[pytest.TestReport]) -> str:
    outcomes = {report.outcome for report in reports}
    return next(outcome for outcome in ("failed", "skipped", "passed") if outcome in outcomes)


def _message(reports: list[pytest.TestReport]) -> str:
    decisive = next(report for report in reports if not report.passed)
    crash = getattr(decisive.longrepr, "reprcrash", None)
    return crash.message if crash is not None else str(decisive.longrepr)


def _family(item: pytest.Item) -> str:
    return item.path.parent.name


class _Verdicts:
    """Gathers what was found, in the process that the user started."""

    def __init__(self, config: pytest.Config) -> None:
        self.path = config.getoption("pitome_table")
        self.settings = config.getoption("pitome")
        self.found: dict[str, dict] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.found |= {report.nodeid: found for name, found in report.user_properties if name == "pitome"}

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        text = write_table(self.found, self.settings)
        terminalreporter.write_line(text)
        if self.path:
            path = Path(self.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.with_suffix(".json").write_text(json.dumps(self.found, indent=1), encoding="utf-8")
