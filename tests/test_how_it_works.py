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
"""docs/how_it_works.md and docs/adding_a_family.md: their examples run, and the table names whatever is replaced in
other packages."""

import os
import re
import subprocess
import sys
from pathlib import Path

from optimum_pitome.families.table import FAMILIES
from optimum_pitome.hub.loading import COMPOSERS


ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}

#: Modules that this package changes.
MODULES = [
    *FAMILIES,
    *(f"transformers.models.{name}.modeling_{name}" for name in COMPOSERS),
    "transformers.models.auto.image_processing_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.blip.modeling_blip_text",
    "transformers.trainer",
    "accelerate",
    "peft",
]
#: Imports them, then everything of this package, and prints the names of what is another object than before.
PROGRAM = """
import importlib, pkgutil, sys, types, warnings

warnings.simplefilter("ignore")
OTHERS = ("transformers", "accelerate", "torch", "huggingface_hub", "peft", "optimum", "datasets", "evaluate")
classes = set()


def snapshot():
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] not in OTHERS or not isinstance(module, types.ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == module_name:
                classes.add(f"{module_name}.{name}")
                for attribute, method in list(vars(value).items()):
                    if callable(getattr(method, "__func__", method)):
                        found[f"{module_name}.{name}.{attribute}"] = method
            elif callable(value) or name.isupper():
                found[f"{module_name}.{name}"] = value
    return found


for name in MODULES:
    importlib.import_module(name)
before, known = snapshot(), set(classes)
import optimum_pitome
for found in pkgutil.walk_packages(optimum_pitome.__path__, "optimum_pitome."):
    if ".register" in found.name:
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:  # families of newer releases; Triton and Numba, which kernels need; timm
        if not (error.name or "").startswith(("transformers.models.", "triton", "numba", "timm")):
            raise
after = snapshot()
from optimum_pitome.modeling.registry import _ARCHITECTURES
classes_of = [f"{entry.__module__}.{entry.__qualname__}" for entry in _ARCHITECTURES]
encoders = {f"{name}.{method}" for name in classes_of for method in ("forward", "extra_repr")}
for name, value in after.items():
    new = name not in before and name.rpartition(".")[0] in known
    if (new or name in before and before[name] is not value) and name not in encoders:
        print("REPLACED", name)
print("ENCODERS", sum(before.get(name) is not after[name] for name in encoders), len(encoders))
"""


def code_of(section):
    return re.findall(r"```python\n(.*?)```", SECTIONS[section], flags=re.DOTALL)


def test_the_examples_run():
    blocks = code_of("Adding an algorithm and an energy")
    assert blocks and all(len(block.splitlines()) < 40 for block in blocks)
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True)


def test_the_page_on_families_runs(tmp_path):
    """docs/adding_a_family.md, one block after the other, with the folder of the examples on Python's path."""
    page = (ROOT / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 6 and all(len(block.splitlines()) < 40 for block in blocks)
    paths = [str(ROOT), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vision_model: " in done.stdout and "text_model: " in done.stdout


def test_the_table_names_what_is_replaced():
    output = subprocess.run(
        [sys.executable, "-c", f"{MODULES = }\n{PROGRAM}"], check=True, capture_output=True, text=True
    ).stdout
    found = set(re.findall(r"^REPLACED (\S+)$", output, flags=re.MULTILINE))
    changed, registered = re.search(r"^ENCODERS (\d+) (\d+)$", output, flags=re.MULTILINE).groups()
    assert changed == registered != "0"
    rows = re.findall(r"^\| (`.*?) \|", SECTIONS["What is replaced in other packages"], flags=re.MULTILINE)
    patterns = [pattern for row in rows for pattern in re.findall(r"`(transformers[^`]*)`", row)]
    expressions = [re.compile(re.escape(pattern).replace(r"\*", ".*")) for pattern in patterns]
    assert sorted(name for name in found if not any(each.fullmatch(name) for each in expressions)) == []
    # Nothing is listed that is not replaced.
    assert [each.pattern for each in expressions if not any(map(each.fullmatch, found))] == []
