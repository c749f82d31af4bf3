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

"""docs/messages.md lists every error and every warning of the package. `python tests/test_messages.py` writes it anew.

What the page says below a message stays, as long as the message does. A message that does not say itself what to do
needs such a sentence. A section lists the messages of the files that its comment `<!-- messages: ... -->` names.
"""

import re
import sys
import textwrap
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))

from package_messages import PACKAGE, package_messages  # noqa: E402


PAGE = PACKAGE.parent / "docs" / "messages.md"
AGAIN = "docs/messages.md does not list what the package says. Run: python tests/test_messages.py"
SECTION = re.compile(r"^<!-- messages: (.*?) -->\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
REASONS = re.compile(r"^<!-- reasons -->\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^- (Warning: )?(`+ ?)(.+?)( ?`+)(?:<br>(.*?))?\s*(?=^- |\Z)", re.MULTILINE | re.DOTALL)
#: What a message says that tells what is accepted, or what to do.
ACCEPTED = r"\b(expected|accepted|supported|fields|known|needs|can be|did you mean|takes a|is for)\b"
VERBS = (
    "ask|bound|call|choose|close|correct|delete|do|evaluate|export|free|give|go|install|keep|leave|let|load|lower|make|"
    "measure|move|name|open|pass|pip install|put|raise|read|remove|rename|repeat|return|rewrite|run|say|see|set|show|"
    "start|stop|swap|switch|take|try|turn|update|upgrade|use|wait|work|write"
)
ADVICE = re.compile(rf"{ACCEPTED}|(?:^|[.:;,(] )(?:then |or |and |otherwise )?(?:{VERBS})\b", re.IGNORECASE)


def section_of(file, sections):
    """The section, as its paths, that lists a file: the one that names the longest part of its path."""
    return max(sections, key=lambda paths: max(common(file, path) for path in paths.split()))


def common(file, path):
    """How much of the path of a file a path in a section names."""
    named = "optimum_pitome/" + path.removeprefix("optimum_pitome")
    return len(named) if file.startswith(named) else -1


def remarks_of(text):
    """What the page says below its messages."""
    found = {}
    for section in SECTION.finditer(text):
        for _, _, message, _, remark in ENTRY.findall(section[2]):
            if remark.strip():
                found[" ".join(message.split())] = " ".join(remark.split())
    return found


def entry(message, remark):
    quote = "`" * (1 + max(map(len, re.findall("`+", message.text)), default=0))
    padding = " " if len(quote) > 1 else ""
    lines = f"{'Warning: ' if message.is_warning else ''}{quote}{padding}{message.text}{padding}{quote}"
    written = fill(f"- {lines}{'<br>' if remark else ''}")
    return written + (fill(f"  {remark}") if remark else "")


def fill(text):
    return textwrap.fill(text, 130, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) + "\n"


def written_anew(text, messages):
    remarks = remarks_of(text)
    sections = {paths: {} for paths, _ in SECTION.findall(text)}
    for message in messages:
        sections[section_of(message.file, sections)].setdefault(message.text, message)
    return (
        SECTION.sub(
            lambda section: (
                f"<!-- messages: {section[1]} -->\n\n"
                + "".join(entry(message, remarks.get(text, "")) for text, message in sections[section[1]].items())
                + "\n"
            ),
            text,
        ).rstrip()
        + "\n"
    )


def with_reasons(text):
    """The page with the list of model types that are refused, and why."""
    from optimum_pitome.families import refusals

    found = {}
    for reason in refusals.REASONS:
        found.setdefault(reason.text, []).extend(f"`{name}`" for name in reason.model_types.split())
    found[refusals._CAUSAL.text] = ["GPT, Llama, Qwen and the like"]
    listed = "".join(fill(f"- {reason}: {', '.join(names)}.") for reason, names in found.items())
    return REASONS.sub(lambda _: f"<!-- reasons -->\n\n{listed}\n", text)


def test_every_message_is_listed():
    text, messages = PAGE.read_text(encoding="utf-8"), package_messages()
    assert len(messages) > 300
    assert with_reasons(written_anew(text, messages)) == text, AGAIN


def test_every_message_says_what_to_do():
    remarks = remarks_of(PAGE.read_text(encoding="utf-8"))
    silent = [each.text for each in package_messages() if not ADVICE.search(each.text) and each.text not in remarks]
    assert not silent, "Say in these messages what to do, or below them in docs/messages.md:\n" + "\n".join(silent)


SOURCE = """
import logging

_HINT = "Give one."


def check(value, name):
    accepted = "a number" if name else "a word"
    if value is None:
        raise ValueError(f"{name}={value!r}: expected {accepted}." + " " + _HINT)
    _require(value, f"{name} is empty. {why(name)}")
    logging.getLogger().warning(f"{value} is odd.")
    raise ValueError(str(value))


def _require(holds, message):
    if not holds:
        raise ValueError(message)


def why(name):
    return f"The `{name}` fell off."
"""
LISTED = """# Messages

## These

What is said here stays.

<!-- messages: one.py -->

- `…=…: expected a number. Give one.`
- `…=…: expected a word. Give one.`<br>
  A remark that stays.
- `` … is empty. The `…` fell off. ``
- Warning: `… is odd.`

## Others

<!-- messages: optimum_pitome -->
"""


def test_messages_are_read_from_the_source(tmp_path):
    package = tmp_path / "optimum_pitome"
    package.mkdir()
    (package / "one.py").write_text(SOURCE, encoding="utf-8")
    messages = package_messages(package)
    assert written_anew(LISTED, messages) == LISTED
    empty = re.sub(r"^- .*\n(?:  .*\n)*", "", LISTED, flags=re.MULTILINE)
    assert written_anew(empty, messages) == LISTED.replace("<br>\n  A remark that stays.", "")
    (package / "two.py").write_text('raise ValueError("Not good.")', encoding="utf-8")
    assert written_anew(LISTED, package_messages(package)) == LISTED + "\n- `Not good.`\n"


def test_advice_is_found():
    for text in ("It fell. Pick it up, or leave it.", "ratio=…: expected a number.", "It needs: pip install it"):
        assert ADVICE.search(text)
    assert not ADVICE.search("It fell off the table.")


if __name__ == "__main__":
    sys.path.insert(0, str(PACKAGE.parent))
    PAGE.write_text(with_reasons(written_anew(PAGE.read_text(encoding="utf-8"), package_messages())), encoding="utf-8")
