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

"""What all parsers of `optimum-cli pitome` have in common: how results are shown, what is said of wrong options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ..configuration.checks import similar


_Add = Callable[[argparse.ArgumentParser], None]

#: What a command is about, where that is no model alone.
_PLACES = {"compare": "GRID", "visualize": "MODEL [FILE ...]", "benchmark": "MODEL [MODEL ...]"}


def explain_errors(parser: argparse.ArgumentParser, command: str, options: Mapping[str, Sequence[_Add]]) -> None:
    """Errors show one line of usage, not all options, and of an option that is not known the nearest one.

    Args:
        options (`Mapping`): from each command to what adds its options.
    """
    parser.usage = f"%(prog)s {_PLACES.get(command, 'MODEL')} [options]   (--help lists them)"
    parse, error = parser.parse_known_args, parser.error
    # What Python takes as an entry of a dict is an option here: of --ratio and --ratios.
    entry = re.compile(r"(argument --ratio(s?): .*)\{'flops_ratio': (.*)\}", re.DOTALL)
    comma = re.compile(r"invalid (?:float|int) value: '(\d+),(\d+)'")

    def explain(message: str) -> NoReturn:
        error(comma.sub(r"\g<0>. Write \1.\2.", entry.sub(r"\1--flops-ratio\2 \3", message)))

    parser.error = explain

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        found, unknown = parse(args, namespace)
        for word in (word.partition("=")[0] for word in unknown):
            if others := _commands_with(word, options):
                parser.error(
                    f"unrecognized argument {word}. Leave it out of {command}: it is an option of {', '.join(others)}."
                )
            # Without the dashes, which would make everything alike.
            known = [name.removeprefix("--") for name in parser._option_string_actions if name.startswith("--")]
            near = similar(word.removeprefix("--"), known) if word.startswith("--") else None
            parser.error(f"unrecognized argument {word}." + (f" Did you mean --{near}?" if near else ""))
        return found, unknown

    parser.parse_known_args = parse_known_args


def _commands_with(option: str, options: Mapping[str, Sequence[_Add]]) -> list[str]:
    parsers = {command: argparse.ArgumentParser(add_help=False) for command in options}
    for command, parser in parsers.items():
        for add in options[command]:
            add(parser)
    return [command for command, parser in parsers.items() if option in parser._option_string_actions]


def add_output(parser: argparse.ArgumentParser) -> None:
    """Of every command, last, since they say nothing about what it does."""
    add = parser.add_argument_group("what is shown").add_argument
    add("--json", action="store_true", help="The results as one JSON document on stdout: see docs/command_line.md.")
    add("--quiet", action="store_true", help="No progress bars, notes and warnings; errors still appear.")


def numbers(text: str, kinds: tuple[Any, ...]) -> float | list[float]:
    """One number, or several with commas between them, of the types that a field has."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a number, or several with commas between them.") from None
    if int in kinds or list[int] in kinds:
        found = [int(number) if number.is_integer() else number for number in found]
    return found[0] if len(found) == 1 and (int in kinds or float in kinds) else found


def decimal_comma(text: str, kinds: tuple[Any, ...]) -> str:
    """What to say of a number with a comma where it is refused."""
    whole, comma, part = text.partition(",")
    if float not in kinds or not (whole.isdigit() and part.isdigit()):
        return ""
    return f" {text} is read as the list {whole}, {part}: write {whole}.{part}."
