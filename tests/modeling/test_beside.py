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
"""What lies beside the weights: where it is looked for."""

import os
from types import SimpleNamespace

import pytest

from optimum_pitome.modeling import beside


def options(name, **options):
    return name, options


@pytest.fixture
def questions(monkeypatch):
    """Whether each question whether a file is there was about the disk alone; `there` says what the answer is."""
    asked, there = [], set()

    def has_file(name, file, local_files_only=False, **hub):
        asked.append(local_files_only)
        return local_files_only in there

    monkeypatch.setattr(beside, "has_file", has_file)
    monkeypatch.setattr(beside, "_READ", {})
    return SimpleNamespace(asked=asked, there=there)


CONFIG = SimpleNamespace(name_or_path="me/model", _commit_hash="abc")


@pytest.mark.parametrize(("there", "asked"), [({True, False}, [True]), ({False}, [True, False])])
def test_the_hub_is_asked_only_for_what_is_not_here(questions, there, asked):
    questions.there.update(there)
    for _ in range(2):  # what was read once is not read again
        found = beside.read_beside(CONFIG, "tokenizer", ["tokenizer.json"], options, token="mine")
        assert found == ("me/model", {"trust_remote_code": False, "token": "mine", "revision": "abc"})
        assert questions.asked == asked


def test_what_is_saved_anew_is_read_anew(tmp_path):
    config, file = SimpleNamespace(name_or_path=str(tmp_path)), tmp_path / "vocab.txt"

    def read(name, **options):
        return file.read_text()

    for time, text, expected in ((1, "one", "one"), (2, "two", "two"), (2, "not looked at again", "two")):
        file.write_text(text)
        os.utime(file, (time, time))
        assert beside.read_beside(config, "tokenizer", ["tokenizer.json", file.name], read) == expected


def test_what_is_nowhere_is_not_read(questions):
    def read(name, **options):
        raise AssertionError("there is nothing to read")

    assert beside.read_beside(CONFIG, "tokenizer", ["tokenizer.json", "vocab.txt"], read) is None
    assert questions.asked == [True, True, False, False]
    assert beside.read_beside(SimpleNamespace(name_or_path=""), "tokenizer", ["vocab.txt"], read) is None


def test_what_does_not_load_keeps_no_model_from_loading(questions):
    def read(name, **options):
        raise OSError("broken")

    questions.there.add(True)
    assert beside.read_beside(CONFIG, "tokenizer", ["tokenizer.json"], read) is None and not beside._READ
