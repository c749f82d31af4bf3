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

"""What importing the package does, and does not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import optimum_pitome


FROM_TRANSFORMERS = "from transformers import AutoModel, AutoConfig, ViTConfig, ViTModel"


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light():
    assert (
        run(
            "import sys, optimum_pitome\n"
            "print(sorted({'torch', 'transformers', 'numpy'} & {name.split('.')[0] for name in sys.modules}))"
        ).strip()
        == "[]"
    )


#: What only evaluations, plots and the command line need; heavy, so a load must not wait for it.
HEAVY = {"datasets", "evaluate", "optimum", "sklearn", "pandas", "pyarrow", "matplotlib", "onnx"}


def test_loading_saving_and_counting_import_nothing_heavy(tmp_path):
    """Beyond what transformers itself imports for a dense model."""
    config = "ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8)"
    load = f"ViTModel({config}).save_pretrained('dense'); model = AutoModel.from_pretrained('dense'"
    found = "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    start = f"import os, sys; os.chdir({str(tmp_path)!r})"
    dense = run(f"{start}\n{FROM_TRANSFORMERS}\n{load})\nmodel.save_pretrained('saved')\n{found}")
    merging = run(
        f"{start}\nimport optimum_pitome\n{FROM_TRANSFORMERS}\n{load}, pitome=0.9)\nmodel.save_pretrained('saved')\n"
        f"assert 'GFLOPs' in str(optimum_pitome.pitome_summary(model))\n{found}"
    )
    new = set(merging.splitlines()[-1].split()) - set(dense.splitlines()[-1].split())
    assert "optimum_pitome" in new and not new & HEAVY


@pytest.mark.parametrize(
    "imports",
    [
        f"import optimum_pitome; {FROM_TRANSFORMERS}",
        f"{FROM_TRANSFORMERS}; import optimum_pitome",
        f"import transformers.modeling_utils, optimum_pitome; {FROM_TRANSFORMERS}",
        f"from optimum_pitome import PiToMeConfig; {FROM_TRANSFORMERS}",
    ],
)
def test_any_order_of_imports_works(imports):
    script = (
        "config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8)\n"
        "for model in (AutoModel.from_config(config, pitome=0.9), ViTModel._from_config(config, pitome=0.9)):\n"
        "    print(type(model.layers[0]).__module__, type(AutoConfig.for_model('pitome')).__name__)\n"
    )
    assert run(f"{imports}\n{script}").split() == ["optimum_pitome.families.vit", "PiToMeConfig"] * 2


FOUND_ONLY_AND_INTERRUPTED = """
import importlib.util, sys
import optimum_pitome

class Interrupt:
    def __init__(self, error, when):
        self.error, self.when = error, when
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if self.when(name):
            sys.meta_path.remove(self)
            raise self.error

def attempt(function):
    try:
        function()
    except (KeyboardInterrupt, MemoryError):
        return
    raise SystemExit("not interrupted")

importlib.util.find_spec("transformers.modeling_utils")
importlib.util.find_spec("transformers.models.auto.modeling_auto")
for error in (KeyboardInterrupt, MemoryError):
    # In the middle of transformers' module, and in the middle of what we do after one.
    Interrupt(error, lambda name: "transformers.modeling_utils" in sys.modules)
    attempt(lambda: __import__("transformers.modeling_utils"))
    assert "transformers.modeling_utils" not in sys.modules
    Interrupt(error, lambda name: name == "optimum_pitome.hub.recipes")
    attempt(lambda: __import__("transformers.models.auto.modeling_auto"))
"""
RELOADED = """
import importlib
import transformers.modeling_utils, transformers.models.auto.modeling_auto
import optimum_pitome
importlib.reload(transformers.modeling_utils)
importlib.reload(transformers.models.auto.modeling_auto)
"""
IN_ANOTHER_THREAD = """
import sys, threading, time
threading.Thread(target=lambda: __import__("transformers.modeling_utils")).start()
while "transformers.modeling_utils" not in sys.modules:
    time.sleep(0.001)
import optimum_pitome
"""


@pytest.mark.parametrize("happened", [FOUND_ONLY_AND_INTERRUPTED, RELOADED, IN_ANOTHER_THREAD])
def test_the_keyword_is_known_whatever_happened_to_the_import(happened):
    script = (
        "from transformers import AutoModel, ViTConfig, ViTModel, modeling_utils\n"
        "config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8)\n"
        "models = [AutoModel.from_config(config, pitome=0.9), ViTModel._from_config(config, pitome=0.9)]\n"
        "known = [modeling_utils.PreTrainedModel.from_pretrained._pitome]\n"
        "from transformers.models.auto.modeling_auto import AutoModelForImageClassification\n"
        "known.append(optimum_pitome.PiToMeConfig in AutoModelForImageClassification._model_mapping)\n"
        "print(*[type(model.layers[0]).__module__ for model in models], *known)\n"
    )
    # huggingface_hub prints that it was interrupted.
    answer = run(f"{happened}\n{script}").splitlines()[-1]
    assert answer.split() == ["optimum_pitome.families.vit"] * 2 + ["True"] * 2


def test_public_names():
    for name in optimum_pitome.__all__:
        assert getattr(optimum_pitome, name) is not None
    assert set(optimum_pitome.__all__) <= set(dir(optimum_pitome))
    with pytest.raises(AttributeError, match="no attribute 'apply_pitomes'"):
        optimum_pitome.apply_pitomes


def test_wrapping_twice_is_wrapping_once():
    from transformers import PreTrainedModel, modeling_utils

    from optimum_pitome.hub.loading import install

    before = PreTrainedModel.from_pretrained.__func__
    install(modeling_utils)
    assert PreTrainedModel.from_pretrained.__func__ is before


def test_a_transformers_without_the_methods_is_refused():
    from types import SimpleNamespace

    from optimum_pitome.hub.loading import install

    with pytest.raises(RuntimeError, match="PreTrainedModel has no from_pretrained, _from_config, save_pretrained"):
        install(SimpleNamespace(PreTrainedModel=type("PreTrainedModel", (), {})))


def test_tools_that_read_the_source_find_every_public_name():
    """Editors, type checkers and the documentation, which import nothing."""
    tree = ast.parse(Path(optimum_pitome.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    assert {name.name for node in block.body for name in node.names} == set(optimum_pitome._EXPORTS)
