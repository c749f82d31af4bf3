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

"""The options of `serve`: those of `transformers serve` itself, beside ours. They are read from its class, which takes
seconds to import, so only when the command is called.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import typing
from typing import Any

from .task_options import add_model


_LAST_PORT = 65535


class _PassOn(argparse.Action):
    """Keeps an option, and its value, as they were given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.passed_on = [*namespace.passed_on, option_string, *([] if self.nargs == 0 else [values])]


def add_server(parser: argparse.ArgumentParser) -> None:
    """MODEL, and what `transformers serve` takes. `passed_on` is the list of the latter."""
    add_model(parser)
    parser.set_defaults(passed_on=[])
    parse, group = parser.parse_known_args, parser.add_argument_group("server", "As transformers serve knows them.")

    def parse_known_args(args=None, namespace=None):
        if not group._group_actions:
            _add_options_of_transformers(group)
        return parse(args, namespace)

    parser.parse_known_args = parse_known_args


def check_address(host: str, port: str) -> None:
    """Refuses an address at which no server can listen, before anything is loaded for it.

    Raises:
        ValueError: if `port` is no number of a port, it is taken, it is not this user's to take, or `host` is no
            address of this machine.
    """
    if not port.isdecimal() or int(port) > _LAST_PORT:
        raise ValueError(f"--port {port}: expected a whole number from 1 to {_LAST_PORT}, or 0 for any free port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            if os.name == "posix":  # as the server itself does: a port is free right after another server ended
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there. Stop it, or name another port; --port 0 takes any free one."
        elif error.errno == errno.EACCES:
            reason = "this user may not take that port. Name one from 1024 on, such as --port 8000."
        else:
            reason = f"no server can listen there ({error}). Name an address of this machine, such as 0.0.0.0."
        raise ValueError(f"--host {host} --port {port}: {reason}") from None


def _add_options_of_transformers(group: argparse._ArgumentGroup) -> None:
    from transformers.cli.serve import Serve

    hints = typing.get_type_hints(Serve.__init__, include_extras=True)
    for name, hint in hints.items():
        if name in ("return", "force_model"):
            continue
        kind, option = typing.get_args(hint)[:2]
        text = argparse.SUPPRESS if option.hidden else (option.help or "").replace("%", "%%")
        names = [f"--{name.replace('_', '-')}"]
        how: dict[str, Any] = {"metavar": name.upper()}
        if bool in (kind, *typing.get_args(kind)):
            names, how = [*names, f"--no-{names[0].removeprefix('--')}"], {"nargs": 0}
        group.add_argument(*names, action=_PassOn, dest="passed_on", default=argparse.SUPPRESS, help=text, **how)
