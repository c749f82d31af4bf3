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
"""Files that are written, loaded in a bare runtime, and compared with the model on inputs of the test's own."""

import json
import logging

import pytest
import torch
from export.helpers import CASES, merged, quick_format
from tiny_processors import image_processor, tokenizer
from zoo.text import text_inputs
from zoo.vit import pixel_values

from optimum_pitome import apply_pitome, export_pitome, load_exported, pitome_disabled
from optimum_pitome.export.export import prepare_export
from optimum_pitome.export.formats import WRITERS
from optimum_pitome.export.quantization import QUANTIZERS


pytest.importorskip("onnxscript", reason="files are traced into ONNX")


def run_onnx(folder, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    assert [one.shape[0] for one in session.get_inputs()] == ["batch"] * len(session.get_inputs())
    found = session.run(None, {one.name: inputs[one.name].numpy() for one in session.get_inputs()})
    return {one.name: torch.from_numpy(value) for one, value in zip(session.get_outputs(), found)}


def run_openvino(folder, inputs):
    import openvino

    # What plugins choose by themselves is bfloat16 on some CPUs.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", exact)
    found = compiled({port.any_name: inputs[port.any_name].numpy() for port in compiled.inputs})
    return {port.any_name: torch.tensor(value) for port, value in found.items()}


def run_torch(folder, inputs):
    return torch.export.load(folder / "model.pt2").module(check_guards=False)(**inputs)


RUN = {"onnx": run_onnx, "openvino": run_openvino, "torch": run_torch}
FILES = {"onnx": "onnx/model.onnx", "openvino": "openvino_model.xml", "torch": "model.pt2"}


def exported(model, format, tmp_path, **settings):
    if format == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is an extra of its own")
    result = export_pitome(model, tmp_path / "out", format, **settings)
    assert result.path == tmp_path / "out" / FILES[format] and result.path.is_file()
    return result


@pytest.mark.parametrize("said_by", ["processor", "inputs"])
def test_pictures_have_the_size_that_will_come(said_by, tmp_path, monkeypatch):
    """DINOv2's checkpoints are configured for larger pictures than their processors make."""
    if "Dinov2Model" not in CASES:
        pytest.skip("Dinov2Model can be rewritten since a later transformers")
    monkeypatch.setitem(WRITERS, "torch", quick_format())
    model = merged("Dinov2Model")
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    model.config.image_size *= 2
    small = {"inputs": [pixel_values(2)]} if said_by == "inputs" else {"processor": image_processor()}
    export_pitome(model, tmp_path / "out", "torch", **small)
    assert len(seen) > 1 and {pictures.shape[1:] for pictures in seen} == {pixel_values(1)["pixel_values"].shape[1:]}


@pytest.mark.parametrize("name", ["SiglipModel", "CLIPModel"])
@torch.no_grad()
def test_short_texts_stay_short_where_nothing_merges(name, monkeypatch):
    """SigLIP's text tower reads the last token, which padding would replace."""
    module, samples, *_ = prepare_export(merged(name), "text")
    texts = samples.texts([3, 3], seed=1)
    expected = module(**texts)["text_embeds"]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(module(**texts)["text_embeds"], expected)


def manifest(tmp_path):
    return json.loads((tmp_path / "out" / "pitome_export.json").read_text())


@pytest.mark.parametrize(
    ("name", "format"),
    [("ViTForImageClassification", "onnx"), ("Dinov2Model", "openvino"), ("Dinov2Model", "torch")],
)
def test_pictures(name, format, tmp_path, capsys):
    if name not in CASES:
        pytest.skip(f"{name} can be rewritten since a later transformers")
    model = merged(name)
    exported(model, format, tmp_path, processor=image_processor())
    run = load_exported(tmp_path / "out")
    assert run.format == format and run.inputs == ("pixel_values",)
    for batch_size in (1, 4):
        inputs = pixel_values(batch_size)
        found = RUN[format](tmp_path / "out", inputs)
        torch.testing.assert_close(run(**inputs, labels=torch.zeros(1)), found)
        with torch.no_grad():
            expected = model(**inputs)
        for output, value in found.items():
            torch.testing.assert_close(value, expected[output], atol=1e-5, rtol=1e-4)
        with torch.no_grad(), pitome_disabled(model):
            dense = model(**inputs)
        assert any((value - dense[output]).abs().max() > 1e-3 for output, value in found.items())
    folder = tmp_path / "out"
    assert json.loads((folder / "config.json").read_text())["pitome"]["ratio"] == 0.8
    assert (folder / "preprocessor_config.json").is_file()
    assert f'load_exported("{folder.name}")' in (folder / "README.md").read_text()
    assert manifest(tmp_path)["inputs"] == ["pixel_values"] and manifest(tmp_path)["comparison"]["relative"] < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if format == "onnx":
        check_number_of_nodes(folder / FILES[format])
    if format in QUANTIZERS:
        check_int8(model, format, tmp_path / "out")
    assert "[torch.onnx]" not in capsys.readouterr().out


def check_number_of_nodes(file):
    """Each takes a runtime some microseconds. A number here that grows is a merge that got slower."""
    import onnx

    first, second = (at for at, node in enumerate(onnx.load(file).graph.node) if node.op_type == "TopK")
    # A whole layer: some 45 are the dense one's.
    assert second - first <= 135


def check_int8(model, format, folder):
    """Of what was written: to trace it again would take as long as the first time."""
    file = folder / FILES[format]
    for calibration in ([],) if format == "onnx" else ([], [pixel_values(2)]):
        if format == "openvino":
            pytest.importorskip("nncf", reason="int8 for OpenVINO is made by nncf")
        inputs = pixel_values(4)
        noted = []
        logging.getLogger("nncf").addFilter(note := lambda record: noted.append(record.levelno) or True)
        QUANTIZERS[format](file, calibration)
        logging.getLogger("nncf").removeFilter(note)
        assert all(level >= logging.WARNING for level in noted)
        with torch.no_grad():
            expected = model(**inputs)
        for output, value in RUN[format](folder, inputs).items():
            difference = (value - expected[output]).flatten(1).norm(dim=1) / expected[output].flatten(1).norm(dim=1)
            assert 0 < difference.mean() < 0.3, (output, difference)


def test_int8_of_torch(tmp_path):
    """Quantised before it is traced, for every batch size; the model stays as it is."""
    pytest.importorskip("torchao", reason="int8 in PyTorch is an extra of its own")
    model, inputs = merged("ViTForImageClassification"), pixel_values(3)
    with torch.no_grad():
        expected = model(**inputs).logits
    exported(model, "torch", tmp_path, quantize="int8")
    run = load_exported(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected)
        difference = (run(**inputs)["logits"] - expected).norm() / expected.norm()
    assert 0 < difference < 0.3 and run.manifest["quantize"] == "int8"
    program = torch.export.load(tmp_path / "out" / FILES["torch"])
    assert any("_int_mm" in str(node.target) for node in program.graph.nodes)
    # Compiled, it says the same, but for what rounds otherwise in the last bit of a float: a step of int8.
    compiled = torch.compile(program.module(check_guards=False))
    with torch.no_grad():
        found, loaded = compiled(**inputs)["logits"], run(**inputs)["logits"]
    assert (found - loaded).norm() < 0.05 * loaded.norm()


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("ViTForImageClassification", "onnx"),
        ("DistilBertForSequenceClassification", "onnx"),
        ("DistilBertForSequenceClassification", "torch"),
    ],
)
def test_other_means(name, format, tmp_path):
    by_size = merged(name)
    model = apply_pitome(merged(name), {"ratio": 0.8, "weighted_by": "attention", "importance": 0.5, "keep_norm": 0.5})
    exported(model, format, tmp_path)
    inputs = pixel_values(2) if name.startswith("ViT") else text_inputs(2, lengths=[24, 13])
    with torch.no_grad():
        expected, other = (each(**inputs).logits for each in (model, by_size))
    found = RUN[format](tmp_path / "out", inputs)["logits"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - other).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format", "lengths"),
    [
        ("BertForTokenClassification", "openvino", ([24, 13], [3], [64, 30, 9], [5, 2, 4])),
        ("DistilBertForSequenceClassification", "torch", ([24, 13], [3], [64, 30, 9], [5, 2, 4])),
    ],
)
def test_texts_of_any_length(name, format, lengths, tmp_path):
    model = merged(name)
    model.config.type_vocab_size = 1  # no second sentences
    exported(model, format, tmp_path)
    for each in lengths:
        inputs = text_inputs(len(each), lengths=each, num_tokens=max(each))
        found = RUN[format](tmp_path / "out", inputs)["logits"]
        with torch.no_grad():
            expected = model(**inputs).logits
        assert found.shape == expected.shape
        real = inputs["attention_mask"].bool() if found.dim() == 3 else slice(None)
        torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-4, msg=f"{each}")
    assert manifest(tmp_path)["inputs"] == ["input_ids", "attention_mask"]


@pytest.mark.slow
def test_a_tower_with_its_projection(tmp_path):
    model = merged("CLIPModel")
    exported(model, "torch", tmp_path, part="vision")
    inputs = pixel_values(3)
    with torch.no_grad():
        expected = model.get_image_features(**inputs)
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(run_torch(tmp_path / "out", inputs)["image_embeds"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_tower_of_a_model_that_generates(tmp_path):
    model = merged("LlavaForConditionalGeneration").get_encoder(modality="image")
    exported(model, "torch", tmp_path)
    inputs = pixel_values(3)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(run_torch(tmp_path / "out", inputs)["last_hidden_state"], expected)


@pytest.mark.slow
def test_sentence_embeddings(tmp_path):
    """With what text-embeddings-inference reads beside the file."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="pooling settings are theirs")
    merged("BertModel").save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "bert"), device="cpu")  # mean pooling
    (tmp_path / "work").mkdir()
    exported(model, "onnx", tmp_path / "work")
    folder = tmp_path / "work" / "out"
    texts = ["a photo of cat", "the red sign for dog and this blue frog how many letter in picture"]
    inputs = model.tokenizer(texts, padding=True, return_tensors="pt")
    found = run_onnx(folder, inputs)
    assert set(found) == {"last_hidden_state", "sentence_embedding"}
    torch.testing.assert_close(
        found["sentence_embedding"], model.encode(texts, convert_to_tensor=True), atol=1e-5, rtol=1e-4
    )
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"onnx/model.onnx", "tokenizer.json", "modules.json", "1_Pooling/config.json", "config.json"} <= written
    assert not any(name.endswith((".safetensors", ".bin")) for name in written)
