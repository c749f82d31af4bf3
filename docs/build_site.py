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

"""Builds the site of the documentation: `make docs`. The pages lie in the repository as GitHub shows them.

They are copied, and links that leave the site lead to the repository (`--repository URL`; without one they are plain
text). docs/reference.md lists the public names; each gets its entry, which mkdocstrings makes of the docstrings.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml


ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "docs" / "mkdocs.yml"
REFERENCE = "docs/reference.md"
#: A name in docs/reference.md: "- `optimum_pitome.evaluate`: what it does".
NAMED = re.compile(r"^- `(optimum_pitome[\w.]*)`: .*(?:\n  .*)*", re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]`]|`[^`]*`)*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def read_config() -> dict[str, Any]:
    """docs/mkdocs.yml."""
    return yaml.safe_load(CONFIG.read_text(encoding="utf-8"))


def pages_of(nav: list) -> Iterator[str]:
    """The pages in a `nav`, as paths from the root of the repository."""
    for entry in nav:
        for inside in entry.values():
            yield from [inside] if isinstance(inside, str) else pages_of(inside)


def place_of(page: str) -> str:
    """Where a page of the repository lies among the sources of the site."""
    if page == "README.md":
        return "index.md"
    return {"docs/README.md": "pages.md"}.get(page, page.removeprefix("docs/").lower())


def with_links(text: str, page: str, pages: set[str], repository: str | None, copy: Callable[[str], None]) -> str:
    """`text` of the page `page` with its links as the site needs them; `copy` is given each picture it shows."""

    def link(match: re.Match) -> str:
        image, title, target = match.groups()
        file, anchor = (target.split("#", 1) + [""])[:2]
        if not file or re.match(r"\w+:", target):
            return match[0]
        path = os.path.normpath(os.path.join(os.path.dirname(page), file))
        if image:
            copy(path)
        if image or path in pages:
            start = os.path.dirname(place_of(page)) or "."
            return f"{image}[{title}]({os.path.relpath(place_of(path), start)}{'#' if anchor else ''}{anchor})"
        return f"[{title}]({repository}/blob/main/{path})" if repository else title

    return "".join(part if _FENCE.match(part) else _LINK.sub(link, part) for part in _FENCE.split(text))


def documented_names() -> list[str]:
    """The public names in docs/reference.md."""
    return NAMED.findall((ROOT / REFERENCE).read_text(encoding="utf-8"))


def with_entries(text: str) -> str:
    """docs/reference.md with an entry for mkdocstrings in place of each line, and the fields of the settings."""
    sys.path.insert(0, str(ROOT))
    from optimum_pitome.configuration.fields import FIELDS  # made when it is imported; needs no torch

    rows = ["| field of `PiToMeConfig` | what it does |", "|---|---|"]
    rows += [f"| `{name}` | {setting.help.replace('|', '&#124;')} |" for name, setting in FIELDS.items()]
    return (
        NAMED.sub(lambda match: f"::: {match[1]}\n", text) + "\n## Fields of the settings\n\n" + "\n".join(rows) + "\n"
    )


def stage(folder: Path, repository: str | None) -> Path:
    """Writes what the generator reads into `folder`. Returns the path of its configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    config = read_config()
    pages = set(pages_of(config["nav"]))

    def target_of(path: str) -> Path:
        target = folder / "pages" / place_of(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        text = with_links(text, page, pages, repository, lambda path: shutil.copyfile(ROOT / path, target_of(path)))
        target_of(page).write_text(with_entries(text) if page == REFERENCE else text, encoding="utf-8")

    config |= {"nav": _placed(config["nav"]), "docs_dir": "pages", "site_dir": "site"}
    if repository:
        config["repo_url"] = repository
    links = {name.rpartition(".")[2]: name for name in documented_names()}
    python = next(plugin for plugin in config["plugins"] if "mkdocstrings" in plugin)["mkdocstrings"]["handlers"][
        "python"
    ]
    python["paths"] = [str(ROOT)]
    python["options"]["extensions"] = [{str(ROOT / "docs" / "griffe_extension.py"): {"links": links}}]
    written = folder / "mkdocs.yml"
    written.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return written


def _placed(nav: list) -> list:
    return [
        {title: place_of(inside) if isinstance(inside, str) else _placed(inside) for title, inside in entry.items()}
        for entry in nav
    ]


def main() -> int:
    """Builds the site. Returns 1 if anything was warned of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", help="URL of the repository, for links to its files")
    parser.add_argument("--output", default="build/docs", help="folder for the sources and the site")
    args = parser.parse_args()
    folder = Path(args.output).resolve()
    config = stage(folder, args.repository.rstrip("/") if args.repository else None)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)]
    # Where the extension finds what it imports.
    environment = os.environ | {"PYTHONPATH": str(ROOT / "docs")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stdout.write(done.stdout)
    # What mkdocstrings warns of does not count for Zensical's --strict.
    warned = [line for line in done.stdout.splitlines() if line.startswith(("griffe:", "mkdocstrings:"))]
    if done.returncode or warned:
        sys.stdout.write(f"The site was not built, or with warnings ({len(warned)} of mkdocstrings).\n")
        return 1
    sys.stdout.write(f"{folder / 'site' / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
