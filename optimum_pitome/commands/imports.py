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

"""`--import`: modules of a user's that register families, algorithms and energies."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from .arguments import fail


class ModuleError(ImportError):
    """A module that the command line names and that cannot be imported."""


def add_imports(parser: argparse.ArgumentParser) -> None:
    """`--import`, which counts before all other options, wherever it stands: they may name what a module registers."""
    option = {"dest": "imports", "action": "append", "default": [], "metavar": "MODULE"}
    text = "Module, or .py file, that registers families, algorithms or energies; may be given several times."
    parser.add_argument("--import", help=text, **option)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--import", **option)
    parse = parser.parse_known_args

    def parse_known_args(args=None, namespace=None):
        try:
            for module in early.parse_known_args(args)[0].imports:
                import_module(module)
        except ModuleError as error:
            fail(parser, error)
        except argparse.ArgumentError:
            pass  # which the parser itself reports
        return parse(args, namespace)

    parser.parse_known_args = parse_known_args


def import_module(name: str) -> None:
    """Imports a module by its name, or by the path of its file.

    Raises:
        ModuleError: if there is no such module, or importing it fails.
    """
    # As `python -m` does: a module in the current folder is found by its name.
    sys.path.insert(0, "") if "" not in sys.path else None
    module = _module_of_file(Path(name)) if name.endswith(".py") else name
    try:
        importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ModuleError(
                f"--import {name}: Python finds no module {error.name!r}. Install it, or name its file, such as "
                f"--import path/to/{module.rpartition('.')[2]}.py"
            ) from None
        raise ModuleError(f"--import {name}: importing it raised {type(error).__name__}: {error}") from error


def _module_of_file(path: Path) -> str:
    """The name under which the file can be imported; as when Python runs it, its folder comes first."""
    if not path.is_file():
        raise ModuleError(f"--import {path}: there is no such file.")
    loaded = sys.modules.get(path.stem)
    is_other = loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() != path.resolve()
    if is_other or path.stem in sys.stdlib_module_names:
        raise ModuleError(f"--import {path}: another module is called {path.stem!r}. Rename the file.")
    sys.path.insert(0, str(path.resolve().parent))
    return path.stem
