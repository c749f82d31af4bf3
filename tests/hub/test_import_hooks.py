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

"""Functions that run after an import, whatever happens to the import."""

import copy
import importlib
import importlib.machinery
import importlib.util
import sys
import threading
import time

import pytest

from optimum_pitome.hub import import_hooks as _import_hooks
from optimum_pitome.hub.import_hooks import when_imported


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes a module, and returns the list to which a hook adds what it saw of it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_import_hooks, "_hooks", [], raising=False)
    made = []

    def make(name, code="X = 1\n", hook=True):
        (tmp_path / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        made.append(name)
        seen = []
        if hook:
            when_imported(name, lambda module: seen.append(module.X))
        return seen

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_a_module_that_is_imported_later_or_already(make):
    seen = make("later")
    assert seen == []
    module = importlib.import_module("later")
    assert seen == [1]
    importlib.import_module("later")
    assert seen == [1]
    when_imported("later", lambda module: seen.append("at once"))
    assert seen == [1, "at once"]
    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)  # nothing of ours stays on it
    assert module.__spec__.loader is module.__loader__


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError, MemoryError])
def test_an_import_that_is_interrupted(make, error):
    seen = make(
        "broken",
        f"import sys\nif not hasattr(sys, '_again'):\n    sys._again = 1\n    raise {error.__name__}\nX = 1\n",
    )
    try:
        with pytest.raises(error):
            importlib.import_module("broken")
        assert seen == []
        importlib.import_module("broken")
        assert seen == [1]
    finally:
        del sys._again


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_function_that_is_interrupted(make, error):
    make("fine", hook=False)
    calls = []

    def interrupted_once(module):
        calls.append(module.X)
        if len(calls) == 1:
            raise error

    when_imported("fine", interrupted_once)
    with pytest.raises(error):
        importlib.import_module("fine")
    importlib.import_module("fine")
    assert calls == [1, 1]


def test_a_function_that_is_interrupted_at_once_runs_at_the_next_import(make):
    make("there", hook=False)
    importlib.import_module("there")
    calls = []

    def interrupted_once(module):
        calls.append(module.X)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        when_imported("there", interrupted_once)
    make("next_one", hook=False)
    importlib.import_module("next_one")
    assert calls == [1, 1]


def test_a_function_that_fails_fails_once(make):
    make("there", hook=False)
    importlib.import_module("there")

    def fail(module):
        raise RuntimeError("does not fit")

    with pytest.raises(RuntimeError, match="does not fit"):
        when_imported("there", fail)
    make("next_one", hook=False)
    importlib.import_module("next_one")


def test_looking_for_a_module_changes_nothing(make):
    seen = make("looked_for")
    spec = importlib.util.find_spec("looked_for")
    assert (
        seen == []
        and spec.loader.get_source("looked_for") == "X = 1\n"
        and spec.loader.is_package("looked_for") is False
    )
    assert copy.copy(spec.loader).get_code("looked_for") is not None
    assert not hasattr(spec.loader, "no_such_attribute")
    importlib.import_module("looked_for")
    assert seen == [1]


def test_a_reload(make):
    seen = make("again")
    module = importlib.import_module("again")
    importlib.reload(module)
    assert seen == [1, 1]


def test_a_module_that_is_half_imported_by_this_thread(make):
    make("half", "from test_import_hooks_now import hook\nhook()\nX = 1\n", hook=False)
    seen = []
    now = type(sys)("test_import_hooks_now")
    now.hook = lambda: when_imported("half", lambda module: seen.append(module.X))
    sys.modules[now.__name__] = now
    try:
        importlib.import_module("half")
    finally:
        del sys.modules[now.__name__]
    make("next_one", hook=False)
    importlib.import_module("next_one")
    assert seen == [1]
    make("another", hook=False)
    importlib.import_module("another")
    assert seen == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_that_is_half_imported_by_another_thread(make, fails):
    code = "import sys, time\nsys._half = 1\ntime.sleep(0.3)\n" + ("raise MemoryError\n" if fails else "") + "X = 1\n"
    make("slow", code, hook=False)

    def import_it():
        try:
            importlib.import_module("slow")
        except MemoryError:
            pass

    seen = []
    thread = threading.Thread(target=import_it)
    thread.start()
    try:
        while not hasattr(sys, "_half"):
            time.sleep(0.001)
        when_imported("slow", lambda module: seen.append(module.X))
    finally:
        thread.join()
        del sys._half
    assert seen == ([] if fails else [1])


def test_a_finder_that_comes_first(make):
    seen = make("found")

    class First:
        def find_spec(self, name, path=None, target=None):
            return importlib.machinery.PathFinder.find_spec(name, path, target) if name == "found" else None

    first = First()
    sys.meta_path.insert(0, first)
    try:
        importlib.import_module("found")
    finally:
        sys.meta_path.remove(first)
    make("next_one", hook=False)
    importlib.import_module("next_one")
    assert seen == [1]
