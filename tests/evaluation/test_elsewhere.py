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
"""`evaluate` with other runtimes beside PyTorch."""

import copy
import importlib.util

import pytest
import torch
from export.helpers import CASES, merged, quick_format
from PIL import Image

from optimum_pitome import apply_pitome, evaluate, remove_pitome
from optimum_pitome.evaluation.judges import ClassJudge, EmbeddingJudge
from optimum_pitome.export import runtimes as module
from optimum_pitome.export.runtimes import completed, runtimes


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = merged("ViTForImageClassification")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(4)]
    return [{"pixel_values": image, "labels": torch.arange(4) % 3} for image in images]


@pytest.fixture
def files_are(monkeypatch):
    """Lets a format of `quick_format` stand for ONNX, whichever packages there are; returns what was calibrated on."""
    calibrated = []

    def patch(change=lambda value: value):
        monkeypatch.setitem(module.WRITERS, "onnx", quick_format(change))
        monkeypatch.setitem(module.QUANTIZERS, "onnx", lambda path, batches: calibrated.append(batches))
        monkeypatch.setattr(module, "check_request", lambda *args: None)
        return calibrated

    return patch


def test_each_runtime_has_a_row_of_the_dense_model_and_of_the_settings(model, batches, files_are, tmp_path):
    files_are()
    found = evaluate(model, batches, ratios=[0.9, 0.6], runtimes=runtimes(["pytorch", "onnx"]))
    assert [one.name for one in found] == ["0.9", "0.6", "dense, onnx", "0.9, onnx", "0.6, onnx"]
    assert [(one.runtime, one.quantize) for one in found] == [("pytorch", None)] * 2 + [("onnx", None)] * 3
    dense, *others = found[2:]
    assert dense.agreement["agreement"] == 1 and dense.settings == {} and dense.merged == dense.dense
    assert dense.flops_ratio == 1 and dense.tokens_left == dense.num_tokens == [65]
    for one, there in zip(found[:2], others):
        for name in ("dense", "merged", "difference", "agreement", "settings", "gflops_merged", "tokens_left"):
            assert getattr(one, name) == getattr(there, name)
    assert "forward" not in vars(model)
    assert list(found.table().index)[3] == "dense, onnx" and found.to_dict()["evaluations"][4]["runtime"] == "onnx"
    found.plot(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").width > 500


def test_what_is_dense_elsewhere_merges_nothing_there(model, batches, files_are, monkeypatch):
    """By vectors, which tell more than classes; with a copy in place of int8 in PyTorch."""
    files_are()
    monkeypatch.setattr(module, "quantized", copy.deepcopy)
    encoder = apply_pitome(remove_pitome(model).vit, 0.6)
    judge, data = EmbeddingJudge(encoder, neighbours=1), [{"pixel_values": one["pixel_values"]} for one in batches]
    one, *others = evaluate(encoder, data, judge, runtimes=runtimes(["pytorch", "onnx"], ["int8"]))
    assert [row.name.partition(",")[0] for row in others] == ["dense", "0.6", "dense", "0.6"]
    assert one.kept["centred_cosine"] < 0.9999
    for dense, merged_one in zip(others[::2], others[1::2]):
        assert dense.kept["centred_cosine"] == pytest.approx(1, abs=1e-6)
        assert merged_one.kept["centred_cosine"] == pytest.approx(one.kept["centred_cosine"], abs=1e-6)


def test_the_file_is_what_answers(model, batches, files_are):
    """Of a file that says something else, all is measured; the model in PyTorch answers as before."""
    files_are(lambda value: value.roll(1, dims=-1))
    one, dense, there = evaluate(model, batches, runtimes=runtimes(["onnx"]))
    assert dense.agreement["agreement"] == 0 and there.agreement["agreement"] < one.agreement["agreement"]


def test_pictures_have_the_size_of_the_batches(batches, files_are):
    if "Dinov2ForImageClassification" not in CASES:
        pytest.skip("Dinov2ForImageClassification can be rewritten since a later transformers")
    files_are()
    model = merged("Dinov2ForImageClassification")
    larger = [
        {"pixel_values": torch.nn.functional.interpolate(batch["pixel_values"], size=(48, 48))} for batch in batches
    ]
    _, dense, _ = evaluate(model, larger, runtimes=runtimes(["onnx"]))
    assert dense.num_tokens != [65] and dense.agreement["agreement"] == 1


def test_one_trace_serves_int8_and_calibration_is_other_data(model, batches, files_are, monkeypatch):
    calibrated, traced = files_are(), []
    write = module.WRITERS["onnx"].write
    fake = module.WRITERS["onnx"]
    monkeypatch.setitem(
        module.WRITERS, "onnx", type(fake)(fake.file, lambda *args: traced.append(write(*args)), fake.load)
    )
    others = [{"pixel_values": torch.randn(2, 3, 32, 32)}]
    found = evaluate(model, batches, ratios=0.6, runtimes=runtimes(["onnx"], [None, "int8"], others))
    assert [one.name for one in found][1:] == ["dense, onnx", "0.6, onnx", "dense, onnx int8", "0.6, onnx int8"]
    assert len(traced) == 2 and len(calibrated) == 2  # dense and merged
    assert all(batch["pixel_values"] is others[0]["pixel_values"] for (batch,) in calibrated)


def test_what_cannot_run_elsewhere(model, batches, files_are):
    files_are()
    with pytest.raises(ValueError, match="A CLIPModel has two encoders, which are exported apart"):
        evaluate(merged("CLIPModel"), [], runtimes=runtimes(["onnx"]))
    with pytest.raises(ValueError, match="int8 in OpenVINO is calibrated on inputs, and there are none"):
        runtimes(["openvino"], ["int8"])
    encoder = model.vit
    judge = EmbeddingJudge(encoder.forward, neighbours=1)  # goes past the model itself
    with pytest.raises(ValueError, match="The judge did not call this ViTModel itself"):
        evaluate(encoder, [{"pixel_values": batches[0]["pixel_values"]}], judge, runtimes=runtimes(["onnx"]))
    assert "forward" not in vars(encoder)
    batch = {**batches[0], "interpolate_pos_encoding": torch.tensor(False)}
    with pytest.raises(ValueError, match="takes pixel_values, and the batches have interpolate_pos_encoding, too"):
        evaluate(model, [batch], ClassJudge(model), runtimes=runtimes(["onnx"]))


def test_what_failed_is_tried_again(model, batches, files_are, monkeypatch):
    files_are()

    def quantize(path, batches):
        raise RuntimeError("int8 broke")

    monkeypatch.setitem(module.QUANTIZERS, "onnx", quantize)
    files = module.ExportedFiles()
    for _ in range(2):
        with pytest.raises(ValueError, match="has two encoders"):
            files.load(merged("CLIPModel"), "two", "onnx", None, batches)
        with pytest.raises(RuntimeError, match="int8 broke"):
            files.load(model, "one", "onnx", "int8", [{"pixel_values": batches[0]["pixel_values"]}])


def test_texts_without_masks_and_types_are_completed():
    ids = torch.tensor([[3, 4]])
    found = completed({"input_ids": ids}, ("input_ids", "attention_mask", "token_type_ids"))
    assert found["attention_mask"].tolist() == [[1, 1]] and found["token_type_ids"].tolist() == [[0, 0]]
    assert list(completed({"input_ids": ids, "token_type_ids": ids}, ("input_ids",))) == ["input_ids"]


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is there")
def test_int8_in_pytorch_needs_torchao():
    assert runtimes(["pytorch"]) == []
    with pytest.raises(ImportError, match=r'needs torchao: pip install "optimum_pitome\[int8\]"'):
        runtimes(["pytorch"], ["int8"])
