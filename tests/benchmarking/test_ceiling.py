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

"""`examples/ceiling.py`: the lengths of the cut model, and the table."""

import ceiling
import pytest
import torch
from transformers import ViTModel
from zoo.vit import vit_config

from optimum_pitome import apply_pitome, pitome_disabled, pitome_summary
from optimum_pitome.benchmarking.inputs import example_inputs


def test_the_cut_model_has_the_lengths_of_the_merged_one():
    model = apply_pitome(ViTModel(vit_config()).eval(), 0.8)
    counts = [(layer.tokens_in, layer.tokens_out) for layer in pitome_summary(model).layers]
    ceiling.cut(model)
    found = []
    for module in model.modules():
        if hasattr(module, "layernorm_before"):
            module.layernorm_before.register_forward_hook(lambda *values: found.append(values[2].shape[1]))
            module.layernorm_after.register_forward_hook(lambda *values: found.append(values[2].shape[1]))
    with torch.no_grad(), pitome_disabled(model):
        model(**example_inputs(model, 2))
    assert found == [number for pair in counts for number in pair] and counts[-1][1] < counts[0][0]


@pytest.mark.parametrize("runtime", ["pytorch", "onnx"])
def test_the_table(tmp_path, capsys, runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
    config = vit_config()
    config.num_hidden_layers = 2  # tracing takes its time
    config.save_pretrained(tmp_path)
    options = ["--runtime", runtime]
    options += ["--rounds", "2", "--batch-size", "2", "--flops-ratio", "1.3", "--clock", "cpu", "--importance", "0"]
    ceiling.main([str(tmp_path), *options])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == ["dense", "merged", "cut"] and rows["dense"][1] == "1.00x"
    assert all(float(cells[0]) > 0 for cells in rows.values())
