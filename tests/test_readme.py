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

"""README, registry and tested classes say the same. `python tests/test_readme.py` writes the README's table anew."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import transformers


sys.path.insert(0, str(Path(__file__).parent))

from zoo import all_cases, every_case  # noqa: E402

from optimum_pitome import apply_pitome  # noqa: E402
from optimum_pitome.families.table import FAMILIES  # noqa: E402
from optimum_pitome.modeling import registry  # noqa: E402
from optimum_pitome.modeling.rewrite import rewritten_encoders  # noqa: E402


README = Path(__file__).parent.parent / "README.md"
HEAD = "| model type | classes | merges by default |\n|---|---|---|\n"


def what_merges(case) -> str:
    model = apply_pitome(case.build(), 0.8)
    words = []
    for encoder in rewritten_encoders(model):
        specs = encoder.pitome.specs
        merging = [index for index, spec in enumerate(specs) if not spec.ratio.is_dense]
        where = "every layer" if merging == list(range(len(specs))) else f"the first {len(merging)} layers"
        words.append(f"{encoder.pitome.architecture.part}: {where}")
    return ", ".join(dict.fromkeys(words))


def table() -> str:
    rows: dict[str, dict] = {}
    for case in all_cases():
        row = rows.setdefault(case.config().model_type, {"classes": [], "merges": what_merges(case)})
        if case.model_class.__name__ not in row["classes"]:
            row["classes"].append(case.model_class.__name__)
    lines = [
        f"| `{model_type}` | {', '.join(f'`{name}`' for name in row['classes'])} | {row['merges']} |\n"
        for model_type, row in sorted(rows.items())
    ]
    return HEAD + "".join(lines)


def with_table(text: str) -> str:
    start = text.index(HEAD)
    end = text.index("\n\n", start)
    return text[:start] + table() + text[end + 1 :]


def test_the_readme_lists_what_is_tested():
    if len(all_cases()) < len(every_case()):  # an older transformers: the table may list more
        text = README.read_text()
        assert all(f"`{case.model_class.__name__}`" in text for case in every_case())
        return
    assert with_table(README.read_text()) == README.read_text(), "run: python tests/test_readme.py"


def test_every_registered_architecture_has_a_tiny_model():
    for family in set(FAMILIES.values()):
        importlib.import_module(family)
    built_in = {
        architecture.encoder_class
        for architecture in registry._ARCHITECTURES.values()
        if architecture.layer_class.__module__.startswith("optimum_pitome.families")
    }
    tested = {type(module) for case in every_case() for module in case.build().modules()}
    assert built_in <= tested


def test_every_family_module_exists():
    for module in FAMILIES:
        importlib.import_module(module)
    assert transformers.__version__


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
