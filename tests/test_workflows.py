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

"""The workflows run what the Makefile offers, on the versions that the package says it supports."""

import configparser
import re
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(path):
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def name_of(path):
    return path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_every_command_is_a_target_of_the_makefile(path):
    commands = [step["run"] for step in steps_of(path) if "run" in step]
    found = [re.fullmatch(r"make ([a-z-]+)((?: [A-Z]+=(?:\$\{\{[^}]+\}\}|\S+))*)", command) for command in commands]
    assert commands and all(found), commands
    assert {match[1] for match in found} <= TARGETS
    variables = {name for match in found for name in re.findall(r"([A-Z]+)=", match[2])}
    assert all(f"$({name})" in MAKEFILE for name in variables)


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflows_ask_for_little(path):
    """No secrets, reading rights unless a job says otherwise, a limit of time, and actions of a named version."""
    workflow = load(path)
    assert "secrets." not in path.read_text(encoding="utf-8") and workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] and set(job.get("permissions", {}).items()) <= {
            ("id-token", "write"),
            ("pages", "write"),
        }
    uses = [step["uses"] for step in steps_of(path) if "uses" in step]
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", name) for name in uses)


def test_the_workflows_cover_what_is_supported():
    runs = {path.stem: [step["run"].split()[1] for step in steps_of(path) if "run" in step] for path in WORKFLOWS}
    assert runs["quality"] == ["quality", "lint-workflows"] and runs["docs"] == ["docs"]
    assert runs["tests"] == ["test-fast", "test-timm", "test-floor"]
    assert runs["newest"] == ["test-newest", "links", "upstream-tests"] and runs["release"] == ["test-fast", "dist"]
    # YAML reads the key `on` as true.
    assert load(WORKFLOWS[0].parent / "newest.yml")[True]["schedule"]
    matrix = load(WORKFLOWS[0].parent / "tests.yml")["jobs"]["fast"]["strategy"]["matrix"]
    assert SETUP["options"]["python_requires"] == f">={matrix['python'][0]}" and matrix["python"][-1] == "3.13"


def test_the_checkout_of_transformers_is_of_the_tested_version():
    used = [step.get("with", {}) for step in steps_of(WORKFLOWS[0].parent / "newest.yml")]
    refs = [settings["ref"] for settings in used if settings.get("repository") == "huggingface/transformers"]
    tested = re.findall(r"^transformers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert refs == [f"v{version}" for version in tested] and len(refs) == 1


def test_the_makefile_explains_its_targets():
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z-]+):[^#\n]*## \S", MAKEFILE, flags=re.MULTILINE))
    assert phony == explained == TARGETS
    for page in ("README.md", "CONTRIBUTING.md", "AGENTS.md"):
        named = re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert named and set(named) <= TARGETS


def test_the_site_is_built_with_its_extra():
    extra = SETUP["options.extras_require"]["docs"].split()
    assert f"pip install -q -c constraints-docs.txt {' '.join(extra)}\n" in MAKEFILE
    pinned = re.findall(r"^(\S+)==", (ROOT / "constraints-docs.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(extra) <= set(pinned)


def test_pre_commit_runs_the_ruff_of_the_tested_set():
    wanted = re.search(r"^ruff==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
    hooks = load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert [hook["additional_dependencies"] for hook in hooks] == [[wanted]] * 2


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_the_forms_of_issues_are_complete(path):
    form = load(path)
    assert form["name"] and form["description"] and any(item.get("validations") for item in form["body"])
    assert len({item["id"] for item in form["body"]}) == len(form["body"])
