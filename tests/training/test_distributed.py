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

"""Real runs in two processes (gloo, CPU): the same seeds give the same losses as in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training.distributed_worker import LAYER, run_loop, run_trainer
from training.tiny import Pictures, needs_image_processors, tiny_vit
from transformers import AutoModelForImageClassification, BitImageProcessorPil

from optimum_pitome import PiToMeConfig, RatioScheduler, apply_pitome


ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5


def launch(*command, num_processes=2):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests", os.environ.get("PYTHONPATH", ""))))
    # Without a GPU, --multi_gpu starts several processes on the CPU (gloo); --cpu would start one.
    several = ["--multi_gpu", "--main_process_port", "0"] if num_processes > 1 else ["--cpu"]
    launcher = ["accelerate.commands.launch", "--num_processes", str(num_processes), *several]
    command = [sys.executable, "-m", *launcher, *map(str, command)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch(Path(__file__).with_name("distributed_worker.py"), folder)
    return json.loads((folder / "found.json").read_text())


def test_trainer_under_ddp(two_processes, tmp_path):
    together, alone = two_processes["trainer"], run_trainer(tmp_path, num_processes=1)
    assert together.keys() == alone.keys() and len(alone["loss"]) == 8
    for name in alone:
        assert together[name] == pytest.approx(alone[name], rel=TOLERANCE, abs=TOLERANCE)
    assert len(set(alone["pitome_ratio"])) == 5


def test_fsdp2_wraps_the_layers_by_their_ordinary_name(two_processes):
    together, alone = two_processes["fsdp2"], run_loop()
    assert together.pop("layer") == f"FSDP{LAYER}" and alone.pop("layer") == LAYER
    assert together["ratios"] == alone["ratios"] and together.pop("saved") == alone.pop("saved")
    for name in alone:
        # Sharded gradients are summed in another order.
        assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=3 * TOLERANCE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model with its processor, and a data set of pictures in folders."""
    root = tmp_path_factory.mktemp("example")
    generator = np.random.default_rng(0)
    for split, size in (("train", 8), ("test", 3)):
        for label in range(3):
            folder = root / "data" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(size):
                pixels = generator.integers(0, 180, (36, 36, 3))
                pixels[..., label] += 70
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    tiny_vit().save_pretrained(root / "model")
    sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    BitImageProcessorPil(**sizes).save_pretrained(root / "model")
    return root


@needs_image_processors
def test_example_loop_on_one_and_two_processes(folders, tmp_path):
    options = {"model": folders / "model", "dataset": folders / "data", "image_size": 32, "ratio": 0.8}
    options |= {"batch_size": 8, "gradient_accumulation_steps": 2, "num_epochs": 2, "learning_rate": 1e-3}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)] + ["--distill"]
    found = []
    for num_processes in (1, 2):
        output = tmp_path / str(num_processes)
        launch("examples/finetune_accelerate.py", *arguments, "--output_dir", output, num_processes=num_processes)
        found.append(json.loads((output / "results.json").read_text()))
        assert found[-1]["processes"] == num_processes
    assert found[0]["distributed_type"] == "NO" and found[1]["distributed_type"] == "MULTI_CPU"
    assert found[0]["losses"] == pytest.approx(found[1]["losses"], abs=TOLERANCE) and len(found[0]["losses"]) == 4
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert AutoModelForImageClassification.from_pretrained(output).config.pitome["ratio"] == 0.8


def test_ratios_move_on_a_dispatched_model(tmp_path):
    from accelerate import dispatch_model

    pictures, model = Pictures(2).pixels, apply_pitome(tiny_vit().eval(), 0.8)
    expected = {}
    for ratio in (1.0, 0.9, 0.8):
        with torch.no_grad():
            expected[ratio] = apply_pitome(model, ratio)(pictures).logits
    device_map = {"vit.embeddings": "cpu", "vit.layers.0": "cpu", "vit.layers.1": "disk", "vit.layers.2": "cpu"}
    device_map |= {"vit.layers.3": "cpu", "vit.layernorm": "cpu", "classifier": "cpu"}
    dispatched = dispatch_model(model, device_map, main_device="cpu", offload_dir=str(tmp_path))
    scheduler = RatioScheduler(dispatched, PiToMeConfig(ratio=0.8), num_training_steps=4)
    for ratio, logits in expected.items():
        with scheduler.at(ratio), torch.no_grad():
            assert torch.equal(dispatched(pictures).logits, logits)
