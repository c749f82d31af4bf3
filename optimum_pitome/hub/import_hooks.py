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

"""Runs a function when a module has been imported, or at once if it already is, and again when it is imported anew.

`wrapt.register_post_import_hook` does not serve here: it calls its hooks on a module that is only half imported,
forgets a hook that was interrupted, does not know reloads, and misses a module that another finder finds first.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _Hook:
    def __init__(self, name: str, callback: Callable[[ModuleType], None]):
        self.name, self.callback = name, callback
        #: The module that the callback has seen.
        self.module: ModuleType | None = None

    def run(self, module: ModuleType) -> None:
        # Before the call: the callback imports other modules, which asks the finder again.
        self.module = module
        try:
            self.callback(module)
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt says nothing about the callback: it is called again
                self.module = None
            raise


_hooks: list[_Hook] = []


def when_imported(name: str, callback: Callable[[ModuleType], None]) -> None:
    """Calls `callback(module)` once module `name` is imported: now, or right after somebody imports it.

    It lets `import optimum_pitome` teach transformers the keyword `pitome=` without importing transformers (and torch)
    itself, so that `optimum-cli`, which loads every plugin, stays quick. An import that fails and is repeated, or a
    reload, runs the callback again, so it must do no harm twice.
    """
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    hook = _Hook(name, callback)
    _hooks.append(hook)
    if _is_half_imported(sys.modules.get(name)):
        # By another thread: this waits for it. By this thread: this returns, and the finder sees to it later.
        try:
            importlib.import_module(name)
        except Exception:  # it is the other thread's to report
            return
    module = sys.modules.get(name)
    if module is not None and not _is_half_imported(module):
        hook.run(module)


def _is_half_imported(module: ModuleType | None) -> bool:
    return getattr(getattr(module, "__spec__", None), "_initializing", False)


class _PostImportLoader(importlib.abc.Loader):
    """The loader of a module, which runs the hooks after it."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        # Who only looks for a spec may ask its loader for the source, the code, the resources.
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module must not keep a reference to this wrapper: inspect and pickle read the loader.
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for hook in [hook for hook in _hooks if hook.name == module.__name__]:
            hook.run(module)


class _PostImportFinder(importlib.abc.MetaPathFinder):
    """Stays in `sys.meta_path`: an import may be interrupted, repeated or only looked for."""

    def find_spec(self, fullname, path=None, target=None):
        # Modules that were half imported when their hook came, or that another finder found.
        for hook in list(_hooks):
            module = sys.modules.get(hook.name)
            if module is not None and module is not hook.module and not _is_half_imported(module):
                hook.run(module)
        if not any(hook.name == fullname for hook in _hooks):
            return None
        for finder in list(sys.meta_path):
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _PostImportLoader(spec.loader)
                return spec
        return None


_finder = _PostImportFinder()
