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

"""The command line, as a user calls it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training.tiny import needs_image_processors
from transformers import ViTImageProcessorPil
from zoo.vision_language import clip_config
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig


@pytest.fixture
def folder(tmp_path):
    vit_config().save_pretrained(tmp_path)
    return tmp_path


def test_the_plugin_is_found_and_stays_light():
    command = [shutil.which("optimum-cli", path=str(Path(sys.executable).parent)), "pitome", "--help"]
    assert "summary" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    script = (
        "import sys, importlib\n"
        "importlib.import_module('optimum.commands.register.register_pitome')\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_summary_needs_no_weights(optimum_cli, folder):
    text = optimum_cli("pitome", "summary", folder, "--ratio", "0.9")
    assert "65 -> 59" in text and "65 -> 45" in text and "fewer operations" in text
    assert optimum_cli("pitome", "summary", folder) == text


def test_summary_options(optimum_cli, folder):
    text = optimum_cli("pitome", "summary", folder, "--ratio", "0.9,1,1,0.5", "--image-size", 40, "--count", "paper")
    assert "101 -> 91" in text and "91 -> 46" in text and "paper count" in text
    assert "65 -> 33" in optimum_cli("pitome", "summary", folder, "--pitome-config", '{"ratio": 0.5, "layers": [3]}')
    several = optimum_cli("pitome", "summary", folder, "--flops-ratios", 1.2, 1.3, "--profile", "uniform")
    assert "profile=uniform, flops_ratio=1.2" in several and "profile=uniform, flops_ratio=1.3" in several
    # An option for how much merges comes before what a file says.
    text = optimum_cli("pitome", "summary", folder, "--flops-ratio", 1.3, "--pitome-config", '{"ratio": 0.5}')
    assert "65 -> 33" not in text
    assert "65 -> 59" in optimum_cli("pitome", "summary", folder, "--layers", "2")
    assert "17 -> 16" in optimum_cli("pitome", "summary", folder, "--image-size", 16)
    assert "unmerge=False" in optimum_cli("pitome", "summary", folder, "--no-unmerge")


@needs_image_processors
def test_summary_counts_the_pictures_of_the_processor(optimum_cli, tmp_path):
    vit_config().save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    text = optimum_cli("pitome", "summary", tmp_path, "--flops-ratios", 1.2, 1.3)
    assert text.count("    0       17 -> ") == 2 and "65 -> " not in text
    # What is spread at a size keeps to it there.
    text = optimum_cli("pitome", "summary", tmp_path, "--flops-ratio", 1.3, "--image-size", 64)
    assert "257 -> " in text and "1.30x fewer" in text
    assert "129 -> " in optimum_cli("pitome", "summary", tmp_path, "--flops-ratio", 1.3, "--image-size", "32,64")


@pytest.mark.parametrize("kind", ["model", "recipe"])
def test_summary_of_another_size_keeps_saved_ratios(optimum_cli, folder, tmp_path, kind):
    settings = {"flops_ratio": 1.3, "profile": "uniform"}
    path, config = tmp_path / "saved", vit_config()
    if kind == "model":
        config.pitome = settings
        config.save_pretrained(path)
    else:
        PiToMeConfig(**settings, base_model_name_or_path=str(folder)).save_pretrained(path)

    def ratios(*options):
        (found,) = json.loads(optimum_cli("pitome", "summary", path, *options, "--json"))["summaries"]
        (encoder,) = found["encoders"]
        return encoder["layers"][0]["tokens_in"], encoder["settings"]["ratio"]

    assert ratios()[0] == 65 and ratios("--image-size", 64) == (257, ratios()[1])


def test_summary_of_a_part_and_of_larger_pictures(optimum_cli, tmp_path):
    clip_config().save_pretrained(tmp_path)
    text = optimum_cli("pitome", "summary", tmp_path, "--parts", '{"vision": 0.5}', "--image-size", 64)
    assert "257 -> 129" in text and "ratio=0.5" in text


def test_summary_of_a_recipe_and_of_a_rewritten_model(optimum_cli, folder, tmp_path):
    config = vit_config()
    config.pitome = {"ratio": 0.5, "layers": [0]}
    config.save_pretrained(tmp_path / "merged")
    assert "65 -> 33" in optimum_cli("pitome", "summary", tmp_path / "merged")
    PiToMeConfig(ratio=0.75, layers=[0], base_model_name_or_path=str(folder)).save_pretrained(tmp_path / "recipe")
    assert "65 -> 49" in optimum_cli("pitome", "summary", tmp_path / "recipe")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--ratio", "0.4"], "ratio=0.4 is out of range"),
        (["--ratio", "x"], "--ratio: x: expected a number"),
        (["--layers", "9"], "layers=[9]: the model has 4 layers"),
        (["--algorithm", "pitone"], "argument --algorithm: algorithm='pitone' is not known. Accepted: 'pitome'"),
        (["--pitome-config", "{"], 'Expected JSON such as {"ratio": 0.9}, or a file of it'),
        (["--pitome-config", "nowhere.json"], 'Expected JSON such as {"ratio": 0.9}, or a file of it'),
        (["--count", "flops"], "argument --count: invalid choice: 'flops' (choose from"),
        (["--image-size", "17"], "--image-size 17: expected a multiple of the patch size, 4"),
        (["--sequence-length", "x"], "argument --sequence-length: invalid int value: 'x'"),
    ],
)
def test_summary_errors(optimum_cli, folder, options, message):
    error = optimum_cli("pitome", "summary", folder, *options, code=2)
    assert message in error and "Traceback" not in error


def test_lengths_are_for_texts_and_called_by_their_option(optimum_cli, folder, workplace):
    assert "--sequence-length is for texts" in optimum_cli("pitome", "summary", folder, "--sequence-length", 9, code=2)
    error = optimum_cli("pitome", "summary", workplace / "bert", "--sequence-length", 2000, code=2)
    assert "2000 tokens are too many: BertModel reads 512" in error and "num_tokens" not in error


def test_a_recipe_of_a_folder_that_is_elsewhere(optimum_cli, tmp_path, monkeypatch):
    PiToMeConfig(ratio=0.8, base_model_name_or_path="tiny-vit").save_pretrained(tmp_path / "tuned")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = optimum_cli("pitome", "summary", "tuned", code=1)
    assert (
        f"The PiToMe recipe 'tuned' names 'tiny-vit', which did not load: there is no such folder in {tmp_path}"
        in error
    )
    assert "run this where the recipe was made" in error
