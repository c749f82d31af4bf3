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

"""`examples/compare_packages.py`, with another package that is made up."""

import compare_packages
import pytest
from zoo.vit import vit_config


OTHER = """
from transformers import ViTConfig, ViTModel

def make(config):
    return ViTModel(ViTConfig(**{**config.to_dict(), "num_hidden_layers": 1}))
"""


def test_dense_ours_and_another_package(tmp_path, monkeypatch, capsys):
    vit_config().save_pretrained(tmp_path)
    (tmp_path / "another_package.py").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    options = ["--rounds", "2", "--batch-size", "2", "--device", "cpu", "--flops-ratio", "1.3"]
    compare_packages.main([str(tmp_path), "--other", "another_package:make", *options])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    fewer = {name: float(cells[2].removesuffix("x")) for name, cells in rows.items()}
    assert rows["dense"][1] == "1.00x" and fewer["dense"] == 1
    assert fewer["ours"] == pytest.approx(1.3, rel=0.05) and fewer["other"] > 2
    assert all(float(cells[0]) > 0 for cells in rows.values())


@pytest.mark.parametrize("name", ["no_such_module:make", "json:make", ""])
def test_a_function_that_is_not_there(name):
    with pytest.raises(SystemExit, match="Expected module:function"):
        compare_packages.imported(name)
