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
"""What cannot be exported, and what is left behind when writing fails: nothing."""

import errno
import json

import pytest
import torch
from export.helpers import merged
from zoo.vit import pixel_values

from optimum_pitome import export_pitome
from optimum_pitome.export import export as export_module
from optimum_pitome.export import requirements
from optimum_pitome.export.formats import Format


@pytest.fixture(scope="module")
def vit():
    return merged("ViTForImageClassification")


@pytest.fixture
def fake_format(monkeypatch):
    """A format whose file is empty, and whose runtime computes what `change` makes of the model's outputs."""

    def install(change=lambda value: value, error=None):
        modules = []

        def write(module, example, opset, path):
            modules.append(module)
            path.write_bytes(b"")
            if error is not None:
                raise error

        def run(inputs):
            with torch.no_grad():
                return {name: change(value) for name, value in modules[0](**inputs).items()}

        monkeypatch.setitem(export_module.WRITERS, "torch", Format("model.pt2", write, lambda path: run))

    return install


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, "format='tflite' is not known. Accepted: 'onnx', 'openvino', 'torch'"),
        ({"quantize": "int4"}, "quantize='int4' is not known. Accepted: 'int8'"),
        ({"opset": 11}, "opset=11 is out of range. Accepted: 18 to"),
        ({"format": "torch", "opset": 20}, "opset=20 is for format='onnx'"),
        ({"part": "audio"}, "part='audio' is not known. Accepted: 'vision', 'text'"),
        ({"format": "torch", "quantize": "int8"}, "Use format='onnx' or 'openvino', or quantise the model in Python"),
        ({"format": "torch", "part": "vision"}, "ViTForImageClassification has no get_image_features"),
    ],
)
def test_requests(vit, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        export_pitome(vit, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "quantize", "package", "extra"),
    [
        ("onnx", None, "onnxscript", "onnx"),
        ("openvino", None, "openvino", "openvino"),
        ("openvino", "int8", "nncf", "openvino"),
    ],
)
def test_a_runtime_that_is_not_installed(monkeypatch, format, quantize, package, extra):
    found = requirements.importlib.util.find_spec
    monkeypatch.setattr(
        requirements.importlib.util, "find_spec", lambda name: object() if name != package else found("no_such_module")
    )
    with pytest.raises(ImportError, match=rf"needs {package}: pip install optimum_pitome\[{extra}\]"):
        requirements.check_request(format, quantize)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LlavaForConditionalGeneration", r"generates text.*export_pitome\(model.get_encoder\(modality='image'\)"),
        ("CLIPModel", "has two encoders.*part='vision' and part='text'"),
    ],
)
def test_models_without_a_single_forward(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        export_pitome(merged(name), tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_what_openvino_computes_wrongly(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "check_request", lambda *args: None)  # OpenVINO need not be installed
    with pytest.raises(ValueError, match="algorithm='random' multiplies 64-bit integers"):
        export_pitome(merged("ViTModel", algorithm="random"), tmp_path / "out", "openvino")


def test_a_folder_that_is_not_empty(vit, tmp_path, fake_format):
    fake_format()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not empty. Name another folder, or remove it first"):
        export_pitome(vit, tmp_path, "torch")
    export_pitome(vit, tmp_path / "out", "torch")
    with pytest.raises(ValueError, match="an export lies there already"):
        export_pitome(vit, tmp_path / "out", "torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "out"]


def test_a_file_that_differs_is_not_kept(vit, tmp_path, fake_format):
    fake_format(lambda value: value + 0.01)
    with pytest.raises(ValueError, match="does not say what the model says in PyTorch.*tolerance of 0.001"):
        export_pitome(vit, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []
    assert export_pitome(vit, tmp_path / "out", "torch", tolerance=0.5).comparison.difference == pytest.approx(0.01)


@pytest.mark.parametrize("change", [lambda value: value * torch.nan, lambda value: value[:, :-1]])
def test_a_broken_file_is_not_kept(vit, tmp_path, fake_format, change):
    fake_format(change)
    with pytest.raises(ValueError, match="does not say what|where PyTorch says"):
        export_pitome(vit, tmp_path / "out", "torch", tolerance=0.5)
    assert list(tmp_path.iterdir()) == []


def test_on_data_what_merges_may_differ(vit, tmp_path, fake_format):
    """Of a file that is exact on inputs that are made up: its samples are counted, and their mean loss is bounded."""
    data, changes = [pixel_values(3)], []

    def change(value):
        if len(value) != 3:
            return value
        changes.append(value)
        return value if len(changes) == 1 else torch.cat([value[:2], value[2:] * factor])

    factor = 1.1
    fake_format(change)
    found = export_pitome(vit, tmp_path / "out", "torch", inputs=data)
    assert found.comparison.equal == 1.0 and found.on_inputs.equal == pytest.approx(2 / 3)
    assert "your data, 3 samples in 1 batches" in str(found)
    changes.clear()
    factor = -1.0
    with pytest.raises(ValueError, match="mean of 1 - cosine is above the tolerance of 0.05"):
        export_pitome(vit, tmp_path / "again", "torch", inputs=data)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk(vit, tmp_path, fake_format):
    fake_format(error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="writing failed .No space left on device.. Nothing was kept"):
        export_pitome(vit, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_fails(vit, tmp_path, fake_format):
    fake_format(lambda value: 1 / 0)
    with pytest.raises(ValueError, match="does not run the exported file. Nothing was kept. ZeroDivisionError"):
        export_pitome(vit, tmp_path / "out", "torch")
    fake_format(error=RuntimeError("no such operator"))
    with pytest.raises(ValueError, match="ViTForImageClassification could not be traced.*no such operator"):
        export_pitome(vit, tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_folder_can_be_made(vit, tmp_path, fake_format):
    fake_format()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="no folder can be made in"):
        export_pitome(vit, tmp_path / "file" / "out", "torch")


def test_the_model_stays_as_it_is(vit, tmp_path, fake_format):
    fake_format()
    vit.train()
    export_pitome(vit, tmp_path / "out", "torch")
    assert vit.training and vit.vit.layers[0].training
    vit.eval()
    written = json.loads((tmp_path / "out" / "pitome_export.json").read_text())
    assert written["outputs"] == ["logits"] and written["comparison"]["agreement"] == 1.0
