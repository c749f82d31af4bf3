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
import os

import pytest
import torch
from export.helpers import CASES, merged, quick_format
from transformers import GPT2LMHeadModel
from zoo.vit import pixel_values

from optimum_pitome import export_pitome, load_exported
from optimum_pitome.cards.card import EXPORTS
from optimum_pitome.export import export as export_module
from optimum_pitome.export import requirements
from optimum_pitome.export.files import MANIFEST
from optimum_pitome.export.formats import Format
from optimum_pitome.export.modules import check_class, input_kind
from optimum_pitome.methods import ALGORITHMS


WRITTEN = ["README.md", "config.json", "model.pt2", "pitome_export.json"]


@pytest.fixture(scope="module")
def vit():
    return merged("ViTForImageClassification")


@pytest.fixture
def fake_format(monkeypatch):
    """A format whose file is empty, and whose runtime computes what `change` makes of the model's outputs."""

    def install(change=lambda value: value, error=None, format="torch"):
        monkeypatch.setitem(export_module.WRITERS, format, quick_format(change, error))

    return install


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, "format='tflite' is not known. Accepted: 'onnx', 'openvino', 'torch'"),
        ({"quantize": "int4"}, "quantize='int4' is not known. Accepted: 'int8'"),
        ({"opset": 11}, "opset=11 is out of range. Accepted: 18 to"),
        ({"format": "torch", "opset": 20}, "opset=20 is for format='onnx'"),
        ({"part": "audio"}, "part='audio' is not known. Accepted: 'vision', 'text'"),
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
        ("torch", "int8", "torchao", "int8"),
    ],
)
def test_a_runtime_that_is_not_installed(monkeypatch, format, quantize, package, extra):
    found = requirements.importlib.util.find_spec
    monkeypatch.setattr(
        requirements.importlib.util, "find_spec", lambda name: object() if name != package else found("no_such_module")
    )
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "optimum_pitome\[{extra}\]"'):
        requirements.check_request(format, quantize)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LlavaForConditionalGeneration", r"generates text.*export_pitome\(model.get_encoder\(modality='image'\)"),
        ("CLIPModel", "has two encoders.*part='vision' and part='text'"),
        ("VideoMAEModel", "VideoMAEModel reads clips, and only models that read pictures or texts alone"),
        ("ASTModel", "ASTModel reads sound, and only models that read pictures or texts alone"),
    ],
)
def test_models_without_a_single_forward(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        export_pitome(merged(name), tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_language_model_has_no_encoder_to_export_instead():
    with pytest.raises(
        ValueError, match="GPT2LMHeadModel generates text.*cannot do. Export an encoder or a class"
    ) as refused:
        check_class(GPT2LMHeadModel, None)
    assert "image" not in str(refused.value)


@pytest.mark.parametrize("name", ["Idefics3VisionTransformer", "SmolVLMVisionTransformer"])
def test_encoders_that_do_not_say_what_they_read(name):
    assert CASES[name].model_class.main_input_name == "input_ids"  # the default of transformers
    model = merged(name)
    assert input_kind(type(model), model.config) == "image"


UNTRACEABLE = [name for name in CASES if name.startswith(("Qwen", "Eomt"))]


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_models_that_cannot_be_traced(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} cannot be exported, dense or merging.*Use torch.compile"):
        export_pitome(CASES[name].build(), tmp_path / "out", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def anything_goes(monkeypatch):
    """Requests are fine: runtimes need not be installed."""
    monkeypatch.setattr(export_module, "check_request", lambda *args: None)


@pytest.mark.parametrize("algorithm", [name for name, entry in ALGORITHMS.items() if entry.draws])
def test_what_openvino_computes_wrongly(tmp_path, anything_goes, fake_format, algorithm):
    with pytest.raises(ValueError, match=f"algorithm='{algorithm}' leaves something to chance.*64-bit integers"):
        export_pitome(merged("ViTModel", algorithm=algorithm), tmp_path / "out", "openvino")
    assert list(tmp_path.iterdir()) == []
    fake_format(format="openvino")
    export_pitome(merged("ViTModel", algorithm=algorithm, ratio=1.0), tmp_path / "out", "openvino")  # merges nothing


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_bfloat16(tmp_path, anything_goes, format):
    with pytest.raises(ValueError, match=rf"bfloat16.*format='{format}'.*export model.float\(\)"):
        export_pitome(merged("ViTModel").bfloat16(), tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_sentences_without_a_transformer(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="it has other models, too")
    model = sentence_transformers.SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    with pytest.raises(ValueError, match=r"has no model of transformers in it \(its modules: Identity\)"):
        export_pitome(model, tmp_path / "out", "torch")


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
    for name, what in ((None, "No space"), ("model.pt2", "model.pt2: No space")):
        fake_format(error=OSError(errno.ENOSPC, "No space left on device", name))
        for folder in (tmp_path / "out", tmp_path):
            with pytest.raises(OSError, match=f"writing failed .{what} left on device.. Nothing was kept"):
                export_pitome(vit, folder, "torch")
            assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_really_full(vit, tmp_path, monkeypatch):
    """The kernel refuses to write more, in the midst of the file."""
    resource = pytest.importorskip("resource", reason="limits of files are of Unix")

    def write(module, example, opset, path):
        path.write_bytes(bytes(10**6))

    monkeypatch.setitem(export_module.WRITERS, "torch", Format("model.pt2", write, None))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(OSError, match=f"writing failed .{os.strerror(errno.EFBIG)}.. Nothing was kept") as caught:
            export_pitome(vit, tmp_path / "out", "torch")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and list(tmp_path.iterdir()) == []


def test_a_move_that_fails_halfway(vit, tmp_path, fake_format, monkeypatch):
    """Of what lies in an existing folder by then, nothing is kept either."""
    fake_format()
    moves, replace = [], type(tmp_path).replace

    def move(self, target):
        moves.append(target)
        if len(moves) == 3:
            raise OSError(errno.EIO, "Input/output error", str(target))
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", move)
    with pytest.raises(OSError, match="writing failed .*Input/output error"):
        export_pitome(vit, tmp_path, "torch")
    assert len(moves) == 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["working directory", "link", "new"])
def test_folders(vit, tmp_path, fake_format, monkeypatch, kind):
    fake_format()
    (tmp_path / "link").symlink_to(tmp_path / "there", target_is_directory=True)
    if kind != "new":
        (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there" if kind == "working directory" else tmp_path)
    before = os.umask(0o027)
    try:
        given = {"working directory": ".", "link": "link", "new": "deep/out"}[kind]
        found = export_pitome(vit, given, "torch")
    finally:
        os.umask(before)
    folder = tmp_path / ("deep/out" if kind == "new" else "there")
    assert found.path.is_file() and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in folder.iterdir()) == WRITTEN
    assert kind != "new" or folder.stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in folder.parent.iterdir()) in (["link", "there"], ["out"])


def test_inputs_that_cannot_be_read(vit, tmp_path, fake_format):
    fake_format()

    def pictures():
        yield pixel_values(1)
        open(tmp_path / "cat.png")

    with pytest.raises(FileNotFoundError, match="cat.png") as caught:
        export_pitome(vit, tmp_path / "out", "torch", inputs=pictures())
    assert "writing failed" not in str(caught.value)
    wrong = [pixel_values(1), {"images": torch.zeros(1), "labels": torch.zeros(1)}]
    with pytest.raises(ValueError, match="batch 1 has images, labels and lacks pixel_values"):
        export_pitome(vit, tmp_path / "out", "torch", inputs=wrong)
    assert list(tmp_path.iterdir()) == [] and not vit.training


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
    vit.train().vit.layers[0].eval()  # frozen
    export_pitome(vit, tmp_path / "out", "torch")
    assert vit.training and vit.vit.layers[1].training and not vit.vit.layers[0].training
    vit.eval()
    written = json.loads((tmp_path / "out" / "pitome_export.json").read_text())
    assert written["outputs"] == ["logits"] and written["comparison"]["agreement"] == 1.0


def test_one_of_several_exports_has_to_be_chosen(tmp_path, monkeypatch):
    for format in ("onnx", "torch"):
        place = tmp_path / EXPORTS / format
        place.mkdir(parents=True)
        (place / MANIFEST).write_text(json.dumps({"format": format, "file": "x", "inputs": [], "outputs": []}))
    with pytest.raises(ValueError, match="was exported as onnx, torch. Choose one: format='onnx'"):
        load_exported(tmp_path)
    with pytest.raises(ValueError, match=r"was exported as onnx, torch, not as 'openvino'. Write it first"):
        load_exported(tmp_path, "openvino")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no exported model: there is no pitome_export.json"):
        load_exported(tmp_path / "empty")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"There is no folder nowhere in {tmp_path}, and no such repository"):
        load_exported("nowhere", local_files_only=True)
