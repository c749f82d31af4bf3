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
"""The harness of `make upstream-tests` on a few tests of ours, some of which merging breaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import optimum_pitome
from upstream.kinds import ALLOWED, LEFT_OUT, allowed, left_out
from upstream.suites import folders
from upstream.table import write_table


TESTS = """
import tempfile
import unittest

import torch
from transformers import BertConfig, BertLMHeadModel, BertModel, GPT2Config, GPT2Model, ViTConfig, ViTModel


CONFIG = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=32,
              patch_size=4)
PIXELS = torch.randn(2, 3, 32, 32)


def is_rewritten(model):
    return hasattr(model, "pitome") or hasattr(model.config, "pitome")


class ViTTest(unittest.TestCase):
    def test_shape(self):
        output = ViTModel(ViTConfig(**CONFIG))(PIXELS)
        self.assertEqual(tuple(output.last_hidden_state.shape), (2, 65, 32))

    def test_planted(self):
        with self.subTest("a model that is dense"):
            self.assertFalse(is_rewritten(ViTModel(ViTConfig(**CONFIG))))

    def test_skips_when_rewritten(self):
        if is_rewritten(ViTModel(ViTConfig(**CONFIG))):
            self.skipTest("it is rewritten")

    def test_attention_outputs(self):
        model = ViTModel._from_config(ViTConfig(**CONFIG), attn_implementation="eager").eval()
        shapes = [list(attention.shape) for attention in model(PIXELS, output_attentions=True).attentions]
        self.assertListEqual(shapes, [[2, 2, 65, 65]] * 3)

    def test_reloaded(self):
        model = ViTModel(ViTConfig(**CONFIG)).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again, _ = ViTModel.from_pretrained(folder, output_loading_info=True)
        self.assertEqual(is_rewritten(again), is_rewritten(model))
        torch.testing.assert_close(again(PIXELS).last_hidden_state, model(PIXELS).last_hidden_state)

    def test_class_that_cannot_merge(self):
        ViTModel(config := ViTConfig(**CONFIG))
        model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
        self.assertFalse(is_rewritten(model))

    def test_loaded_by_a_class_that_cannot_merge(self):
        sizes = dict(hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=9)
        config = BertConfig(num_hidden_layers=1, **sizes)
        with tempfile.TemporaryDirectory() as folder:
            BertModel(config).save_pretrained(folder)
            model = BertLMHeadModel.from_pretrained(folder, is_decoder=True)
        self.assertFalse(hasattr(model.bert.encoder, "pitome"))

    def test_fails_anyway(self):
        self.assertFalse(True)

    def test_no_model(self):
        self.assertTrue(True)

    def test_flash_attention(self):
        self.fail("it is left out")
"""


def run(folder):
    """What pytest said, what was found for each test, and the table."""
    tests = folder / "tests" / "models" / "vit"
    tests.mkdir(parents=True)
    (tests / "test_modeling_vit.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    paths = [str(Path(optimum_pitome.__file__).parents[1]), str(Path(__file__).parents[1])]
    command = [sys.executable, "-m", "pytest", "-p", "upstream.plugin", "--pitome=1", "--pitome=0.9"]
    done = subprocess.run(
        [*command, f"--pitome-table={folder / 'table.md'}", "-q", "tests"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = json.loads((folder / "table.json").read_text())
    return (
        done,
        {name.rpartition("::")[2]: verdict for name, verdict in found.items()},
        (folder / "table.md").read_text(),
    )


def outcomes(verdict):
    return [of["outcome"] for of in verdict["settings"].values()]


@pytest.mark.slow
def test_what_merging_breaks_is_found_and_nothing_else(tmp_path):
    done, found, table = run(tmp_path)
    assert done.returncode == 1 and "2 failed, 5 passed, 2 skipped" in done.stdout, done.stdout
    assert outcomes(found["test_planted"]) == ["finding", "finding"]
    assert outcomes(found["test_skips_when_rewritten"]) == ["finding", "finding"]
    # What passes either way.
    assert outcomes(found["test_shape"]) == outcomes(found["test_reloaded"]) == ["passed", "passed"]
    assert [of["merges"] for of in found["test_shape"]["settings"].values()] == [0, 3]
    # What merging may change.
    assert outcomes(found["test_attention_outputs"]) == ["passed", "allowed"]
    # What cannot merge stays dense.
    verdict = found["test_class_that_cannot_merge"]
    assert outcomes(verdict) == ["passed", "passed"] and verdict["rewritten"] == ["ViTModel"]
    assert "GPT2Model" in verdict["left_dense"]["GPT2Model"]
    assert outcomes(found["test_loaded_by_a_class_that_cannot_merge"]) == ["passed", "passed"]
    assert "BertLMHeadModel" in found["test_loaded_by_a_class_that_cannot_merge"]["left_dense"]
    # What is not judged.
    assert found["test_fails_anyway"]["dense"] == "failed" and not found["test_fails_anyway"]["settings"]
    assert found["test_no_model"]["no_model"] and not found["test_no_model"]["settings"]
    assert "test_flash_attention" not in found
    counts = {"pass dense": 8, "make a model that merges": 7, "as dense at 1": 5, "as dense at 0.9": 4}
    counts |= {"merged tokens": 3, "allowed": 1, "unsteady": 0, "findings": 4, "skipped dense": 0, "fail dense": 1}
    assert " | ".join(["family", *counts]) in table
    assert " | ".join(["vit", *map(str, counts.values())]) in table
    assert "::test_planted` at 0.9" in table and "- `GPT2Model`: " in table


def test_an_empty_table():
    assert "- none" in write_table({}, ["1"])


def test_kinds_are_of_a_family_a_test_and_a_message():
    assert all(kind.reason for kind in ALLOWED) and all(LEFT_OUT.values())
    assert allowed("llava", "test_hidden_states_output", "AssertionError: Lists differ")
    assert not allowed("vit", "test_hidden_states_output", "AssertionError: Lists differ")
    assert not allowed("vit", "test_attention_outputs", "RuntimeError: something else")
    assert left_out("test_flash_attn_2_inference_equivalence") and not left_out("test_determinism")


def test_every_family_has_a_folder():
    assert {"vit", "clip", "bert", "whisper", "llava"} <= set(folders())
