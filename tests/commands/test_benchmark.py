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

"""`optimum-cli pitome benchmark`."""

import json

import pytest
import torch
from training.tiny import needs_image_processors
from transformers import BertConfig, Dinov2Config, Dinov2Model, ViTForImageClassification, ViTImageProcessorPil
from zoo.audio import ast_config
from zoo.llava import llava_config
from zoo.video import vivit_config, vjepa2_config
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig


QUICK = ("--rounds", 3, "--warmup", 1)


@pytest.fixture
def vit(tmp_path):
    vit_config().save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def bert(tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertConfig(**sizes, intermediate_size=32, max_position_embeddings=48).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def benchmark(optimum_cli, tmp_path):
    """Runs the command; returns what it wrote, and the rows of its file."""

    def run(*options):
        text = optimum_cli("pitome", "benchmark", *options, *QUICK, "--output-dir", tmp_path / "report")
        return text, json.loads((tmp_path / "report" / "benchmark.json").read_text())["rows"]

    return run


def test_pictures_of_several_batch_sizes(benchmark, vit):
    text, rows = benchmark(vit, "--ratio", 0.8, "--batch-size", 1, 3)
    assert "vit" in text and "cannot run" not in text
    assert [row["combination"]["batch_size"] for row in rows] == [1, 3]
    for row in rows:
        assert row["model_class"] == "ViTModel" and row["tokens"][0] == 65 and row["rounds"] == 3
        assert row["dense_ms"] > 0 and row["merged_ms"] > 0 and 0 < row["merge_share"] < 1
        assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
        assert 1 < row["operations_ratio"] < row["flops_ratio"] * 1.01  # patches cost the same, dense and merged
        assert row["realised"] == pytest.approx(row["speedup"] / row["operations_ratio"])
        assert row["peak_dense"] > row["peak_merged"] > 0


def test_several_models_with_algorithms_budgets_and_dtypes(benchmark, vit, bert):
    options = ("--ratios", 0.9, 0.8, "--algorithms", "pitome", "tome", "--dtype", "float32", "bfloat16")
    text, rows = benchmark(vit, bert, *options, "--batch-size", 1)
    seen = {(row["model_class"], row["combination"]["dtype"], row["combination"]["settings"]) for row in rows}
    assert len(rows) == len(seen) == 2 * 2 * 4 and not any(row["error"] for row in rows)
    assert {row["tokens"][0] for row in rows if row["model_class"] == "BertModel"} == {48}
    assert "algorithm=tome, ratio=0.9" in text
    for model in ("ViTModel", "BertModel"):
        found = {row["combination"]["settings"]: row["flops_ratio"] for row in rows if row["model_class"] == model}
        assert found['{"algorithm": "tome", "ratio": 0.8}'] > found['{"algorithm": "tome", "ratio": 0.9}'] > 1


def test_the_length_of_texts_is_for_those_of_several_models_that_read_them(benchmark, vit, bert):
    _, rows = benchmark(vit, bert, "--ratio", 0.8, "--batch-size", 1, "--sequence-length", 12)
    assert [(row["tokens"][0], row["error"]) for row in rows] == [(65, None), (12, None)]


def test_what_was_measured_is_not_measured_again(benchmark, vit, tmp_path):
    _, first = benchmark(vit, "--ratio", 0.8, "--batch-size", 1)
    _, both = benchmark(vit, "--ratio", 0.8, "--batch-size", 1, 2)
    assert both[0] == first[0] and len(both) == 2
    for name in ("benchmark.md", "benchmark.png", "rows.jsonl"):
        assert (tmp_path / "report" / name).stat().st_size > 0


def test_what_cannot_run_says_why_in_its_row(benchmark, vit):
    options = ("--runtime", "pytorch", "onnx", "--dtype", "bfloat16", "--mode", "eager", "reduce-overhead")
    text, rows = benchmark(vit, "--ratio", 0.8, "--batch-size", 2, *options, "--measure", "forward", "first-token")
    errors = [row["error"] for row in rows if row["error"]]
    assert len(rows) == 8 and len(errors) == 7  # all but the eager forward in PyTorch
    for part in ("CUDA graphs", "ViTModel does not generate", "exported files are measured with dtype float32"):
        assert any(part in error for error in errors) and part in text


def test_a_command_of_which_nothing_runs_fails(optimum_cli, vit):
    text = optimum_cli("pitome", "benchmark", vit, "--measure", "first-token", "--ratio", 0.8, code=2)
    assert "No combination could run" in text


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_exported_files_float_and_int8(benchmark, tmp_path, runtime):
    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    config, folder = vit_config(), tmp_path / "short"
    config.num_hidden_layers = 2  # tracing takes its time for every layer
    config.save_pretrained(folder)
    options = ("--runtime", runtime, "--quantize", "none", "int8")
    _, (floats, int8) = benchmark(folder, "--ratio", 0.8, "--batch-size", 2, *options)
    assert not floats["error"] and not int8["error"]
    assert floats["loss_merged"] < 1e-5 and 1e-5 < int8["loss_merged"] < 0.5
    assert floats["loss_merging"] > 0 and floats["dense_ms"] > 0 and floats["peak_dense"] is None


def test_int8_in_pytorch(benchmark, vit):
    pytest.importorskip("torchao")
    _, (row,) = benchmark(vit, "--ratio", 0.8, "--batch-size", 2, "--quantize", "int8")
    assert not row["error"] and 0 < row["loss_merged"] < 0.5 and row["gflops_dense"] > row["gflops_merged"]


def test_the_first_token_of_a_llava(benchmark, tmp_path):
    config = llava_config()
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(tmp_path / "llava")
    _, rows = benchmark(tmp_path / "llava", "--ratio", 0.7, "--batch-size", 2, "--measure", "forward", "first-token")
    assert [row["error"] for row in rows] == [None, None]
    assert all(row["gflops_dense"] > 1.2 * row["gflops_merged"] for row in rows)


def test_compiled_forwards_are_what_torch_compile_makes(benchmark, vit, monkeypatch):
    compiled = []

    def compile(model, mode=None, dynamic=None):
        compiled.append(mode)
        return model

    monkeypatch.setattr(torch, "compile", compile)
    _, rows = benchmark(vit, "--ratio", 0.8, "--batch-size", 1, "--mode", "compile", "max-autotune-no-cudagraphs")
    assert compiled == [None, "max-autotune-no-cudagraphs"] and not any(row["error"] for row in rows)


def test_regions_are_compiled_layer_by_layer(benchmark, vit, monkeypatch):
    compiled = []

    def compile(module, dynamic=None):
        compiled.append((type(module).__name__, dynamic))
        return module

    monkeypatch.setattr(torch, "compile", compile)
    _, (row,) = benchmark(vit, "--ratio", 0.8, "--batch-size", 1, "--mode", "regions")
    assert not row["error"] and row["tokens"][-1] < row["tokens"][0]
    layers = [one for one in compiled if one == ("ViTLayer", True)]
    assert len(layers) == len(row["tokens"]) - 1 and ("ViTModel", True) not in compiled


def test_weights_are_read_where_they_are_asked_for(benchmark, tmp_path, monkeypatch):
    ViTForImageClassification(vit_config()).save_pretrained(tmp_path / "classifier")
    read = []
    original = ViTForImageClassification.from_pretrained.__func__

    def from_pretrained(cls, *args, **kwargs):
        read.append(args)
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(ViTForImageClassification, "from_pretrained", classmethod(from_pretrained))
    _, (row,) = benchmark(tmp_path / "classifier", "--ratio", 0.8, "--batch-size", 1, "--weights")
    assert len(read) == 1 and row["model_class"] == "ViTForImageClassification" and not row["error"]
    _, rows = benchmark(tmp_path / "classifier", "--ratio", 0.8, "--batch-size", 2)
    assert len(read) == 1 and len(rows) == 2


def test_recipes(benchmark, bert, tmp_path):
    PiToMeConfig(ratio=0.6, base_model_name_or_path=str(bert)).save_pretrained(tmp_path / "recipe")
    _, (row,) = benchmark(tmp_path / "recipe", "--batch-size", 2, "--sequence-length", 32)
    assert row["model_class"] == "BertModel" and row["tokens"] == [32, 21, 15]


@pytest.mark.parametrize(
    "make, model_class, tokens",
    [(vivit_config, "VivitModel", 33), (vjepa2_config, "VJEPA2Model", 32), (ast_config, "ASTModel", 30)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_clips_and_sound(benchmark, tmp_path, make, model_class, tokens):
    make().save_pretrained(tmp_path / "model")
    _, (row,) = benchmark(tmp_path / "model", "--ratio", 0.8, "--batch-size", 1)
    assert row["model_class"] == model_class and row["tokens"][0] == tokens and row["operations_ratio"] > 1


def test_training_steps_and_image_size(benchmark, vit, monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: steps.append(gradients(optimizer)))
    _, (row,) = benchmark(vit, "--ratio", 0.8, "--training", "--image-size", 16, "--batch-size", 2)
    assert row["tokens"][0] == 17 and row["combination"]["measure"] == "training"
    assert len(steps) == 8 + 2 and min(steps) > 0  # four rounds, dense and merged; then their memory


@needs_image_processors
@pytest.mark.parametrize("weights", [(), ("--weights",)], ids=["random", "weights"])
def test_pictures_are_those_of_the_processor(benchmark, tmp_path, weights):
    path = tmp_path / "dinov2"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**sizes, image_size=56, patch_size=4)).save_pretrained(path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    _, rows = benchmark(path, "--flops-ratios", 1.2, 1.1, "--batch-size", 1, *weights)
    for row, budget in zip(rows, (1.2, 1.1)):
        assert row["error"] is None and row["combination"]["image_size"] == 32 and row["tokens"][0] == 65
        assert row["flops_ratio"] == pytest.approx(budget, abs=0.03)
    _, rows = benchmark(path, "--flops-ratio", 1.2, "--image-size", 16, "--batch-size", 1, *weights)
    row = next(row for row in rows if row["combination"]["image_size"] == 16)
    assert row["tokens"][0] == 17 and row["error"] is None


def test_another_size_keeps_saved_ratios(benchmark, tmp_path):
    config = vit_config()
    config.pitome = {"flops_ratio": 1.3}
    config.save_pretrained(tmp_path / "saved")
    _, rows = benchmark(tmp_path / "saved", "--batch-size", 1)
    (usual,) = rows
    _, rows = benchmark(tmp_path / "saved", "--batch-size", 1, "--image-size", 64)
    (large,) = [row for row in rows if row["combination"]["image_size"] == 64]
    assert large["tokens"][0] == 257 and large["flops_ratio"] != usual["flops_ratio"]
    assert large["tokens"][-1] / 257 == pytest.approx(usual["tokens"][-1] / 65, abs=0.03)


def gradients(optimizer):
    return sum(
        p.grad.abs().sum().item() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--rounds", 0], "--rounds and --batch-size start at 1"),
        (["--batch-size", 0], "--rounds and --batch-size start at 1"),
        (["--dtype", "float7"], "invalid choice: 'float7'"),
        (["--device", "nowhere"], "--device nowhere"),
        (["--image-size", 17], "a multiple of the patch size, 4"),
        (["--ratio", 0.1], "ratio=0.1 is out of range"),
        (["--algorithms", "best"], "best"),
    ],
)
def test_errors(optimum_cli, vit, options, message):
    assert message in optimum_cli("pitome", "benchmark", vit, *options, code=2)


def test_a_length_is_for_texts(optimum_cli, vit, bert):
    options = ("--ratio", 0.8, "--batch-size", 1, "--sequence-length", 9, *QUICK)
    assert "No combination could run" in optimum_cli("pitome", "benchmark", vit, *options, code=2)
    assert "--sequence-length is for texts" not in optimum_cli("pitome", "benchmark", vit, bert, *options)
    assert "--image-size is for models of images" in optimum_cli(
        "pitome", "benchmark", bert, "--image-size", 32, *QUICK, code=2
    )
