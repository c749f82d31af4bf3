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

"""Commands in README and docs/: their options exist, and so do the scripts, targets and extras that they name."""

from __future__ import annotations

import argparse
import configparser
import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from transformers import TrainingArguments

from optimum_pitome import PiToMeConfig
from optimum_pitome.commands.options import add_options


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "llms.txt")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
COMMAND = "optimum-cli pitome "
#: Stands for what a reader has to fill in.
PLACE = "filled-in"


def filled_in(text):
    return re.sub(r"<[^<>\n]+>", PLACE, text)


def commands_of(text):
    """The commands of a shell script, as lists of words. Variables stand for what was assigned to them."""
    text = re.sub(r"\\\n *", " ", filled_in(text))
    variables = {}

    def keep(match):
        name, value = match.groups()
        variables[name] = " ".join(value.split())
        return (
            variables[name] if match[0].endswith('"') else ""
        )  # a string here is a command that later ones go on with

    text = re.sub(r"^(\w+)=\((.*?)\)$", keep, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r'^(\w+)="(.*?)"', keep, text, flags=re.MULTILINE | re.DOTALL)
    for name, value in reversed(variables.items()):
        text = text.replace(f'"${{{name}[@]}}"', value).replace(f"${name}", value)
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    lines = [words[1:] if words and re.match(r"[A-Z_]+=", words[0]) else words for words in lines]
    return [words for words in lines if words]


def documented(page):
    """The commands of a page: in blocks, and those of `optimum-cli pitome` in its sentences."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == "bash":
            yield from commands_of(token.content)
        for child in token.children or ():
            if child.type == "code_inline" and child.content.startswith(COMMAND):
                yield shlex.split(filled_in(child.content).rstrip(".… "))


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise AssertionError(message)


def check_pitome(words):
    """A call of `optimum-cli pitome`, or only its name."""
    words = list(itertools.takewhile(lambda word: word not in ("|", ">"), words))
    name, *arguments = words[2:]
    if name == PLACE or name.startswith("..."):
        return
    assert (ROOT / "optimum_pitome" / "commands" / f"{name}.py").is_file(), f"there is no command {name}"
    if arguments and arguments != ["--help"]:
        parser = Parser(prog=" ".join(words[:3]))
        add_options(parser, name)
        parser.parse_args(arguments)


def check_python(words):
    if words[1] == "-c":
        compile(words[2], "documentation", "exec")
        return
    script = ROOT / words[1]
    known = script.read_text(encoding="utf-8") + "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "examples").glob("*.py")
        if path.stem in ("common", "data")
    )
    of_trainer = {field.name for field in dataclasses.fields(TrainingArguments)}
    for option in (word.removeprefix("--") for word in words[2:] if word.startswith("--")):
        name = option.replace("-", "_")
        assert name in of_trainer or re.search(rf"\b(?:{name}|{option})\b", known), f"{words[1]} has no --{option}"


def check_accelerate(words):
    assert words[1] == "launch", words
    files = [word for word in words if word.endswith((".py", ".yaml"))]
    assert files and all((ROOT / file).is_file() for file in files), words


def check_pip(words):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    for extras in re.findall(r"optimum_pitome\[(.*?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(setup["options.extras_require"]), words


def check_make(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words


def check_pytest(words):
    assert (ROOT / words[1]).is_file(), words


def check_vllm(words):
    """Settings that it passes on are such as this package accepts."""
    for option, value in zip(words, words[1:]):
        if option == "--hf-overrides":
            PiToMeConfig(**(json.loads(value)["pitome"] or {}))


CHECKS = {
    "optimum-cli": check_pitome,
    "python": check_python,
    "pip": check_pip,
    "make": check_make,
    "pytest": check_pytest,
    "accelerate": check_accelerate,
    "vllm": check_vllm,
    **dict.fromkeys(("export", "mkdir", "ray"), lambda words: None),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_exist(page):
    for words in documented(page):
        try:
            CHECKS[words[0]](words)
        except (AssertionError, KeyError, OSError) as error:
            pytest.fail(f"{' '.join(words)}: {error}")


def test_commands_are_read_from_a_script():
    script = """A=1 python x.py <a folder> \\
    --b "c d"  # and so on
start="python y.py --e 1
    --f 2"  # begins
more="$start --g"
six=('1 2' '3'
     '4')
$more --h "${six[@]}"
"""
    y = ["python", "y.py", "--e", "1", "--f", "2"]
    expected = [["python", "x.py", PLACE, "--b", "c d"], y, [*y, "--g"], [*y, "--g", "--h", "1 2", "3", "4"]]
    assert commands_of(script) == expected


def test_a_wrong_command_is_found():
    with pytest.raises(AssertionError, match="unrecognized argument --flop-ratios"):
        check_pitome(["optimum-cli", "pitome", "summary", "model", "--flop-ratios", "1.8"])
    with pytest.raises(AssertionError, match="no command summarize"):
        check_pitome(["optimum-cli", "pitome", "summarize"])
    with pytest.raises(AssertionError, match="has no --ration"):
        check_python(["python", "examples/text_classification.py", "--ration", "0.9"])


def test_blocks_of_commands_are_marked_as_bash():
    """Others would be missed."""
    for page in PAGES:
        for info, code in re.findall(
            r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            missed = re.search(r"^\$? ?(optimum-cli|python|pip|make) ", code, flags=re.MULTILINE)
            assert info == "bash" or not missed, (page.name, code)
