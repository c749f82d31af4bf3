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

import pytest
import torch
from transformers import BertConfig
from zoo.audio import ast_config, whisper_config
from zoo.video import vivit_config, vjepa2_config
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig


QUICK = ("--rounds", 2, "--warmup", 1)


@pytest.fixture
def vit(tmp_path):
    vit_config().save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def bert(tmp_path):
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertConfig(**sizes, intermediate_size=32, max_position_embeddings=48).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_images(optimum_cli, vit):
    text = optimum_cli("pitome", "benchmark", vit, "--ratio", 0.8, "--batch-size", 1, 3, *QUICK)
    assert "ViTModel, 65 tokens, float32 on cpu" in text and "fewer operations" in text
    rows = [line.split() for line in text.splitlines() if line.split()[0] in ("1", "3")]
    assert len(rows) == 2 and all(float(cell) > 0 for row in rows for cell in row[1:3])
    assert rows[0][3].endswith("x")


def test_texts_and_recipes(optimum_cli, bert, tmp_path):
    PiToMeConfig(ratio=0.6, base_model_name_or_path=str(bert)).save_pretrained(tmp_path / "recipe")
    text = optimum_cli("pitome", "benchmark", tmp_path / "recipe", "--batch-size", 2, *QUICK)
    assert "BertModel, 48 tokens" in text
    text = optimum_cli(
        "pitome", "benchmark", bert, "--batch-size", 2, "--sequence-length", 32, "--dtype", "bfloat16", *QUICK
    )
    assert "BertModel, 32 tokens, bfloat16" in text
    assert "--image-size is for models of images" in optimum_cli(
        "pitome", "benchmark", bert, "--image-size", 32, *QUICK, code=2
    )


@pytest.mark.parametrize(
    "make, says",
    [
        (vivit_config, "VivitModel, 33 tokens"),
        (vjepa2_config, "VJEPA2Model, 32 tokens"),
        (ast_config, "ASTModel, 30 tokens"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_clips_and_sound(optimum_cli, tmp_path, make, says):
    make().save_pretrained(tmp_path)
    text = optimum_cli("pitome", "benchmark", tmp_path, "--ratio", 0.8, "--batch-size", 1, *QUICK)
    assert says in text and "fewer operations" in text


def test_there_is_none_for_models_of_two_inputs(optimum_cli, tmp_path):
    whisper_config().save_pretrained(tmp_path)
    text = optimum_cli("pitome", "benchmark", tmp_path, "--ratio", 0.8, *QUICK, code=2)
    assert "WhisperModel takes more than one input: there is no benchmark for it" in text


def test_training_steps_and_image_size(optimum_cli, vit, monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: steps.append(gradients(optimizer)))
    options = ("--training", "--image-size", 16, "--batch-size", 2, *QUICK)
    text = optimum_cli("pitome", "benchmark", vit, "--ratio", 0.8, *options)
    assert "ViTModel, 17 tokens, float32 on cpu, training steps" in text
    assert len(steps) == 6 and min(steps) > 0  # three rounds, dense and merged


def gradients(optimizer):
    return sum(
        p.grad.abs().sum().item() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--rounds", 0], "--rounds and --batch-size start at 1"),
        (["--batch-size", 0], "--rounds and --batch-size start at 1"),
        (["--dtype", "float7"], "--dtype float7: expected"),
        (["--device", "nowhere"], "--device nowhere"),
        (["--sequence-length", 9], "--sequence-length is for texts"),
        (["--image-size", 17], "a multiple of the patch size, 4"),
        (["--ratio", 0.1], "ratio=0.1 is out of range"),
    ],
)
def test_errors(optimum_cli, vit, options, message):
    assert message in optimum_cli("pitome", "benchmark", vit, *options, code=2)


def test_several_budgets(optimum_cli, vit):
    text = optimum_cli("pitome", "benchmark", vit, "--flops-ratios", 1.2, 1.3, "--batch-size", 2, *QUICK)
    assert "flops_ratio=1.2: ViTModel" in text and "flops_ratio=1.3: ViTModel" in text and "1.3" in text
