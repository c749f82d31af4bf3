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

"""`--import`: methods and families of a user's on the command line."""

import sys

import pytest
from zoo.vit import vit_config

from optimum_pitome.methods import ALGORITHMS


MODULE = """
from optimum_pitome import register_algorithm
from optimum_pitome.methods import ALGORITHMS

import my_helper

register_algorithm(my_helper.NAME, exist_ok=True)(ALGORITHMS["tome"].match)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    vit_config().save_pretrained(tmp_path)
    (tmp_path / "my_methods.py").write_text(MODULE)
    (tmp_path / "my_helper.py").write_text("NAME = 'mine'")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    ALGORITHMS.pop("mine", None)
    for name in ("my_methods", "my_helper", "my_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("how", ["file", "name", "afterwards", "twice", "as settings"])
def test_what_a_module_registers_is_known(optimum_cli, folder, monkeypatch, how):
    if how == "name":
        monkeypatch.syspath_prepend(folder)
    imports = ["--import", "my_methods" if how == "name" else folder / "my_methods.py"]
    algorithm = ["--algorithm", "mine"] if how != "as settings" else ["--pitome-config", '{"algorithm": "mine"}']
    options = [*algorithm, *imports] if how == "afterwards" else [*imports, *algorithm]
    options += imports if how == "twice" else []
    assert "algorithm=mine" in optimum_cli("pitome", "summary", folder, *options)


def test_without_it_the_name_is_not_known(optimum_cli, folder):
    error = optimum_cli("pitome", "summary", folder, "--algorithm", "mine", code=2)
    assert "algorithm='mine' is not known" in error and "on the command line with --import" in error


@pytest.mark.parametrize("command", ["summary", "evaluate", "benchmark"])
@pytest.mark.parametrize(
    "module, message",
    [
        ("nowhere.py", "nowhere.py: there is no such file."),
        ("my_nowhere", "my_nowhere: Python finds no module 'my_nowhere'. Install it, or name its file, such as"),
        ("my_helper.nowhere", "my_helper.nowhere: importing it raised ModuleNotFoundError|finds no module"),
        ("my_broken.py", "my_broken.py: importing it raised ZeroDivisionError: "),
        ("json.py", "json.py: another module is called 'json'. Rename the file."),
    ],
)
def test_modules_that_cannot_be_imported(optimum_cli, folder, command, module, message):
    for name in ("my_broken.py", "json.py"):
        (folder / name).write_text("1 / 0")
    module = folder / module if module.endswith(".py") and module != "nowhere.py" else module
    error = optimum_cli("pitome", command, folder, "--import", module, code=2)
    assert any(part in error for part in message.split("|")) and "Traceback" not in error


def test_without_a_value(optimum_cli, folder):
    assert "--import: expected one argument" in optimum_cli("pitome", "summary", folder, "--import", code=2)


def test_a_model_of_ones_own(optimum_cli, tmp_path):
    """examples/albef.py, which registers its classes with transformers, too."""
    from albef import AlbefConfig

    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 2}
    AlbefConfig(vision_config={**sizes, "image_size": 32, "patch_size": 4}, text_config=sizes).save_pretrained(
        tmp_path
    )
    output = optimum_cli("pitome", "summary", tmp_path, "--ratio", "0.8", "--import", "albef")
    assert "vision_model: " in output and "65 -> 53" in output


@pytest.mark.parametrize("command", ["summary", "evaluate", "tune", "visualize", "export"])
def test_a_model_type_that_nobody_registered(optimum_cli, tmp_path, command):
    (tmp_path / "config.json").write_text('{"model_type": "mine"}')
    (tmp_path / "a.txt").write_text("a b c")
    options = {
        "evaluate": ["--task", "feature-extraction", "--dataset", tmp_path / "a.txt", "--ratio", 0.8],
        "tune": ["--dataset", tmp_path / "a.txt", "--flops-ratio", 1.5],
        "visualize": ["--text", "a b", "-o", tmp_path / "out"],
        "export": ["-o", tmp_path / "out"],
    }
    error = optimum_cli("pitome", command, tmp_path, *options.get(command, []), code=2)
    assert "model type `mine`" in error and error.rstrip().endswith("--import MODULE, or its .py file.")
