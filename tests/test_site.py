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

"""The site that `make docs` builds: every page has its place in it, and every public name its entry.

`python tests/test_site.py` writes the first sentences in docs/reference.md anew.
"""

import importlib
import inspect
import os
import pkgutil
import re
import sys
import textwrap
from pathlib import Path


ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import build_site  # noqa: E402
import google_docstrings  # noqa: E402

import optimum_pitome  # noqa: E402


REFERENCE = ROOT / build_site.REFERENCE
DOCS = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))
#: Packages whose public names are all listed.
PUBLIC = ("optimum_pitome", "optimum_pitome.analysis", "optimum_pitome.merging")


def find(name):
    """The object of a dotted name."""
    return pkgutil.resolve_name(f"{name.rpartition('.')[0]}:{name.rpartition('.')[2]}")


def reference_line(name):
    """The name with the first sentence of its docstring."""
    sentence = re.split(r"(?<=\.)\s(?=[A-Z`\[])", inspect.getdoc(find(name)).split("\n\n")[0])[0]
    sentence = re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"`\1`", " ".join(sentence.split()))
    line = f"- `{name}`: {sentence}"
    return textwrap.fill(line, 130, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def written_anew():
    return build_site.NAMED.sub(lambda match: reference_line(match[1]), REFERENCE.read_text(encoding="utf-8"))


def test_every_page_is_in_the_navigation():
    pages = list(build_site.pages_of(build_site.read_config()["nav"]))
    missing = sorted(set(DOCS) - set(pages))
    assert not missing, f"add to the nav in docs/mkdocs.yml: {missing}"
    assert len(set(pages)) == len(pages) and all((ROOT / page).is_file() for page in pages)
    places = [build_site.place_of(page) for page in pages]
    assert len(set(places)) == len(places)


def test_every_public_name_is_in_the_reference():
    names = build_site.documented_names()
    public = {
        f"{package}.{name}"
        for package in PUBLIC
        for name in importlib.import_module(package).__all__
        if name[0] != "_"
    }
    again = {"optimum_pitome.analysis.pitome_summary"}
    # What examples import is public, too; `GRAPHS` and the like are data, without documentation of their own.
    imported = set()
    for page in DOCS:
        for module, found in re.findall(r"^from (optimum_pitome[\w.]*) import (.+)$", (ROOT / page).read_text(), re.M):
            imported |= {f"{module}.{name.strip()}" for name in found.split(",") if not name.strip().isupper()}
    missing = sorted((public | imported) - again - set(names))
    assert not missing, f"add to docs/reference.md, then run python tests/test_site.py: {missing}"
    assert len(set(names)) == len(names)


def test_the_reference_says_what_the_docstrings_say():
    assert written_anew() == REFERENCE.read_text(encoding="utf-8"), "run: python tests/test_site.py"
    cut = [name for name in build_site.documented_names() if not reference_line(name).endswith(".")]
    assert not cut, f"the docstring begins with no whole sentence: {cut}"


def test_links_lead_to_the_site_or_to_the_repository():
    pages, copied = {"README.md", "docs/README.md", "docs/guide.md", "CONTRIBUTING.md"}, []
    text = "[a](../README.md) [`b`](guide.md#c) ![d](images/e.png) [f](../setup.cfg) [h](#i)\n```\n[j](k)\n```\n"
    expected = "[a](index.md) [`b`](guide.md#c) ![d](images/e.png) {} [h](#i)\n```\n[j](k)\n```\n"
    found = build_site.with_links(text, "docs/README.md", pages, None, copied.append)
    assert found == expected.format("f") and copied == ["docs/images/e.png"]
    found = build_site.with_links(text, "docs/README.md", pages, "https://host/us", copied.append)
    assert found == expected.format("[f](https://host/us/blob/main/setup.cfg)")
    assert (
        build_site.with_links("[c](../CONTRIBUTING.md)", "docs/guide.md", pages, None, print) == "[c](contributing.md)"
    )


def test_what_is_staged(tmp_path):
    config = build_site.stage(tmp_path / "docs", "https://host/us")
    pages = sorted(path.relative_to(config.parent / "pages").as_posix() for path in config.parent.rglob("*.md"))
    assert {"index.md", "pages.md", "guide.md", "contributing.md"} < set(pages)
    assert os.path.isfile(config.parent / "pages" / "images" / "groups.png")
    text = config.read_text(encoding="utf-8")
    assert "repo_url: https://host/us" in text and "- Guide: guide.md" in text
    reference = (config.parent / "pages" / "reference.md").read_text(encoding="utf-8")
    assert "\n::: optimum_pitome.evaluate\n" in reference and "| `flops_ratio` | A budget" in reference


DOCSTRING = """Does it, see [`evaluate`] and [`~other.Thing`].

Args:
    model (`torch.nn.Module`): a model.
    ratio (`float` or `list[float]`, *optional*, defaults to 0.9):
        how much,
        in words.
    start, end (`int`, *optional*): both.
    mask (`torch.Tensor` of shape `(B, N)`, *optional*): 1 for tokens.
    query, key (`torch.Tensor`).
    kwargs: more.

Raises:
    ValueError: never.
"""
GOOGLE = """Does it, see [`evaluate`][optimum_pitome.evaluate] and `Thing`.

Args:
    model (torch.nn.Module): a model.
    ratio (float | list[float]): how much, in words.
    start (int): both.
    end (int): both.
    mask: `torch.Tensor` of shape `(B, N)`. 1 for tokens.
    query (torch.Tensor): `torch.Tensor`.
    key (torch.Tensor): `torch.Tensor`.
    **kwargs: more.

Raises:
    ValueError: never."""


def test_docstrings_are_read_as_those_of_google():
    links = {"evaluate": "optimum_pitome.evaluate"}
    assert google_docstrings.as_google(DOCSTRING, links, {"kwargs": "**"}) == GOOGLE


if __name__ == "__main__":
    assert optimum_pitome
    REFERENCE.write_text(written_anew(), encoding="utf-8")
