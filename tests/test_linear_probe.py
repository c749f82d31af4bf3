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

"""`examples/linear_probe.py`: what it says of data without a training part, and where scikit-learn is missing."""

import sys

import linear_probe
import pytest
from datasets import Dataset
from example_runs import run_here
from transformers import ViTConfig


@pytest.fixture
def model(tmp_path):
    ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_data_without_a_training_part(monkeypatch, capsys, model):
    monkeypatch.setattr("example_data._read_built_in", lambda name, split: Dataset.from_dict({"image": []}))
    with pytest.raises(SystemExit) as stop:
        run_here(monkeypatch, linear_probe, "--model", model, "--dataset", "stamps")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "error: --dataset stamps: stamps has no split 'train' beside" in error and "Traceback" not in error


def test_the_help_names_data_with_a_training_part(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_here(monkeypatch, linear_probe, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "with a training part and classes (fashion_mnist, newsgroups," in text and "stamps" not in text


@pytest.mark.parametrize("where", ["judge", "script"])
def test_without_scikit_learn_there_is_one_sentence(monkeypatch, model, where):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit, match=r'scikit-learn, which is not installed: pip install "\.\[demo\]"'):
        if where == "script":
            run_here(monkeypatch, linear_probe, "--model", model)
        else:
            linear_probe.ProbeJudge(model, pool=None)


def test_scripts_that_train_no_head_need_no_scikit_learn():
    """`finetune_accelerate.py` and others import it for other things."""
    with open(linear_probe.__file__, encoding="utf-8") as file:
        imports = [line for line in file if line.startswith(("import ", "from "))]
    assert imports and not any("sklearn" in line for line in imports)
