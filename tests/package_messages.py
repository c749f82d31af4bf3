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

"""The texts of all errors and warnings of the package, read from its source: what is filled in is a gap."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


PACKAGE = Path(__file__).parents[1] / "optimum_pitome"
#: Stands for what is only known when the message is made.
GAP = "…"
#: In so many ways may the parts of a message differ and still be told apart.
_MAX_WAYS = 3
_MAX_DEPTH = 12
_WARNING = {"warn", "warning", "warning_once", "warning_advice"}
#: Warns of its second argument.
_WARN_ONCE = "warn_once"
_PARSER_ERROR = "error"
#: They carry no message.
_SILENT = {"SystemExit", "_Previewed"}


@dataclass(frozen=True, order=True)
class Message:
    file: str
    line: int
    text: str
    is_warning: bool


def package_messages(package: Path = PACKAGE) -> list[Message]:
    """All messages of the modules in `package`, in the order in which they stand there."""
    found = {}
    for message in _Reader(package).messages():
        found.setdefault((message.file, message.text), message)  # a text that one file has twice
    return sorted(found.values())


class _Reader:
    def __init__(self, package: Path):
        self.package = package
        self.trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
        #: Name → the functions and methods, and the values of constants, that have it anywhere in the package.
        self.functions: dict[str, list[ast.FunctionDef]] = {}
        self.constants: dict[str, list[ast.expr]] = {}
        #: Functions that raise what they are given → which of their arguments that is.
        self.raisers: dict[str, int] = {}
        for tree in self.trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self.functions.setdefault(node.name, []).append(node)
                    self._note_raiser(node)
            for name, value in _assignments(tree.body):
                self.constants.setdefault(name, []).append(value)

    def _note_raiser(self, function: ast.FunctionDef) -> None:
        parameters = [argument.arg for argument in function.args.args]
        for node in _own(function):
            raised = _raised(node)
            if isinstance(raised, ast.Name) and raised.id in parameters:
                self.raisers[function.name] = parameters.index(raised.id)

    def messages(self) -> Iterator[Message]:
        for path, tree in self.trees.items():
            for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
                nodes = list(_own(scope))
                variables: dict[str, list[ast.expr]] = {}
                for name, value in _assignments(nodes):
                    variables.setdefault(name, []).append(value)
                for node in nodes:
                    for expression, is_warning in self._said(node):
                        for text in self._texts(expression, variables):
                            text = " ".join(re.sub(rf"{GAP}(?:\s*{GAP})+", GAP, text).split())
                            if _says_something(text):  # else it passes on another message
                                file = path.relative_to(self.package.parent).as_posix()
                                yield Message(file, node.lineno, text, is_warning)

    def _said(self, node: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
        raised = _raised(node)
        if raised is not None:
            yield raised, False
        if isinstance(node, ast.Call) and node.args:
            if ast.unparse(node.func).rpartition(".")[2] in _WARNING:
                yield node.args[0], True
            elif isinstance(node.func, ast.Name) and node.func.id == _WARN_ONCE:
                yield node.args[1], True
            elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func).endswith(f"parser.{_PARSER_ERROR}"):
                yield node.args[0], False
            elif isinstance(node.func, ast.Name) and self.raisers.get(node.func.id, len(node.args)) < len(node.args):
                yield node.args[self.raisers[node.func.id]], False

    def _texts(self, node: ast.expr, variables: dict[str, list[ast.expr]], depth: int = 0) -> list[str]:
        """The texts that an expression can have."""
        if depth > _MAX_DEPTH:
            return [GAP]
        texts = list(dict.fromkeys(self._all_texts(node, variables, depth + 1)))
        return texts if 0 < len(texts) <= _MAX_WAYS else [GAP]

    def _all_texts(self, node: ast.expr, variables: dict[str, list[ast.expr]], depth: int) -> list[str]:
        if isinstance(node, ast.Constant):
            return [node.value if isinstance(node.value, str) else GAP]
        if isinstance(node, ast.FormattedValue):
            return [GAP] if node.conversion != -1 else self._texts(node.value, variables, depth)
        if isinstance(node, ast.IfExp):
            return [text for part in (node.body, node.orelse) for text in self._texts(part, variables, depth)]
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values, variables, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([node.left, node.right], variables, depth)
        if isinstance(node, ast.Name):
            values = variables.get(node.id) or self.constants.get(node.id, [])
            others = {name: value for name, value in variables.items() if name != node.id}
            return [text for value in values for text in self._texts(value, others, depth)]
        called = node.func if isinstance(node, ast.Call) else node  # a property is not called
        name = called.id if isinstance(called, ast.Name) else None
        if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "self":
            name = called.attr
        texts = [text for function in self.functions.get(name, ()) for text in self._returned(function, depth)]
        return texts if any(map(_says_something, texts)) else [GAP]

    def _joined(self, parts: list[ast.expr], variables: dict[str, list[ast.expr]], depth: int) -> list[str]:
        ways = [self._texts(part, variables, depth) for part in parts]
        product = 1
        for index, way in enumerate(ways):
            if product * len(way) > _MAX_WAYS:
                ways[index] = [GAP]
            product *= len(ways[index])
        return ["".join(way) for way in itertools.product(*ways)]

    def _returned(self, function: ast.FunctionDef, depth: int) -> Iterator[str]:
        nodes = list(_own(function))
        variables: dict[str, list[ast.expr]] = {}
        for name, value in _assignments(nodes):
            variables.setdefault(name, []).append(value)
        for node in nodes:
            if isinstance(node, ast.Return) and node.value is not None:
                yield from self._texts(node.value, variables, depth)


def _says_something(text: str) -> bool:
    return re.search(r"[A-Za-z]{2}\W.*[A-Za-z]{2}|[A-Za-z]{8}", text) is not None


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module or a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef):
            yield from _own(node)


def _assignments(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts))
                yield from ((each.id, value) for each, value in pairs if isinstance(each, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            yield node.target.id, node.value


def _raised(node: ast.AST) -> ast.expr | None:
    """The message of a `raise`."""
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call) or not node.exc.args:
        return None
    name = ast.unparse(node.exc.func).rpartition(".")[2]
    if name in _SILENT:
        return None
    return node.exc.args[2 if name == "ConstructorError" else 0]
