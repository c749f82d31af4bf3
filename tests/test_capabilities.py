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

"""tests/capabilities.json, which docs/models.md is made of: each class is in it, and what it says of some still holds.
`make capabilities` finds all of it again."""

import json

import capabilities
import pytest
from zoo import all_cases, every_case


KNOWN = json.loads(capabilities.FILE.read_text())
CASES = {case.id: case for case in every_case() if not case.id.startswith("Timm")}  # those are not in the table
# On older ones than 5.18 the zoo has no GTE, which transformers then lacks.
ON_TESTED_SET = "GteModel" in CASES and len(all_cases()) == len(every_case())


def test_every_class_has_its_entry():
    missing = CASES.keys() - KNOWN.keys()
    assert not missing, f"run: python tests/capabilities.py {' '.join(sorted(missing))}"
    if ON_TESTED_SET:  # the file is of that
        assert KNOWN.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_stars_are_those_of_classes_that_keep_all_tokens(name):
    assert (KNOWN[name]["lengths"] == capabilities.ALL) == CASES[name].reads_every_token


#: One of each answer, of those that are quick.
AGAIN = ("ASTForAudioClassification", "PaliGemmaForConditionalGeneration", "EomtForUniversalSegmentation", "ViTModel")


@pytest.mark.skipif(not ON_TESTED_SET, reason="it was found on a later transformers")
@pytest.mark.parametrize("name", AGAIN)
def test_what_was_found_is_found_again(name):
    assert capabilities.capabilities_of(CASES[name]) == KNOWN[name]
