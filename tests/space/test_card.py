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

"""The card of the Space says what the Hub reads, and names what is there."""

from pathlib import Path

from huggingface_hub import SpaceCard
from packaging.requirements import Requirement


SPACE = Path(__file__).parents[2] / "examples" / "space"


def test_the_card():
    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio" and card.data.license == "apache-2.0"
    assert (SPACE / card.data.app_file).is_file() and len(card.data.short_description) <= 60
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    wanted = {one.name: one for one in (Requirement(line) for line in lines if not line.startswith("#"))}
    assert set(wanted) == {"optimum_pitome", "gradio"}
    assert wanted["gradio"].specifier.contains(card.data.sdk_version)
