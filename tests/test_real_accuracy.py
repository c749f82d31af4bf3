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

"""The claims of docs/results.md on real weights and data: what merging keeps of the dense model, and how fast."""

import json

import blip_attention
import image_classification
import pytest
import real_assets
import text_classification
import torch
from example_data import generated_reactions
from example_runs import results, run_here
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from optimum_pitome import apply_pitome, pitome_disabled
from optimum_pitome.analysis.timing import DenseMergedTimer
from optimum_pitome.benchmarking.runtimes import training_step


pytestmark = pytest.mark.real


def test_the_default_keeps_the_answers_at_ratio_09(monkeypatch, tmp_path):
    """The image example, five-fold heads trained on dense features. Between 97.9 and 98.3 % stay with other folds."""
    run_here(monkeypatch, image_classification, "--ratios", 0.9, "--output-dir", tmp_path)
    (found,) = results(tmp_path)
    assert found["num_samples"] == 703
    assert found["gflops_dense"] / found["gflops_merged"] == pytest.approx(1.8, abs=0.01)
    assert found["agreement"]["agreement"] >= 0.975
    assert found["dense"]["accuracy"] >= 0.8 and abs(found["difference"]["accuracy"]) <= 0.01
    # Other tests share the machine, so this is a floor: `optimum-cli pitome benchmark` measures.
    assert found["timing"]["speedup"] > 1.4


def test_text_keeps_its_answers_at_1_6_times_fewer_operations(monkeypatch, tmp_path):
    """The text example on 20 Newsgroups, with fewer documents than the table in docs/results.md."""
    settings = {"layers": [1, 2, 3], "min_tokens": 64}
    options = ("--ratios", 0.7, "--pitome", json.dumps(settings), "--max-train", 1200, "--max-samples", 600)
    run_here(monkeypatch, text_classification, *options, "--output-dir", tmp_path)
    (found,) = results(tmp_path)
    assert found["gflops_dense"] / found["gflops_merged"] >= 1.6
    assert found["agreement"]["agreement"] >= 0.92
    assert found["dense"]["accuracy"] >= 0.72 and abs(found["difference"]["accuracy"]) <= 0.02
    assert found["timing"]["speedup"] > 1.3


def test_masks_are_filled_as_without_merging():
    """rxnfp's masked language model on strings like reactions, 15 % of their tokens masked. Masks merge into one
    another first, being alike, where nothing protects them."""
    directory = real_assets.bert_reactions_masked()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(list(generated_reactions(64)["text"]), padding=True, return_tensors="pt")
    special = torch.tensor([tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id])
    words = ~torch.isin(batch["input_ids"], special)
    masked = words & (torch.rand(words.shape, generator=torch.Generator().manual_seed(0)) < 0.15)
    inputs = {**batch, "input_ids": batch["input_ids"].masked_fill(masked, tokenizer.mask_token_id)}
    right = batch["input_ids"][masked]
    model = AutoModelForMaskedLM.from_pretrained(directory, pitome=0.9).eval()

    def accuracy():
        with torch.inference_mode():
            return (model(**inputs).logits[masked].argmax(dim=-1) == right).float().mean().item()

    assert model.bert.pitome.protect_token_ids == (tokenizer.mask_token_id,)
    merged = accuracy()
    with pitome_disabled(model):
        dense = accuracy()
    model.bert.pitome.protect_token_ids = ()
    unprotected = accuracy()
    assert dense > 0.8 and merged > dense - 0.1 and merged > unprotected + 0.1


def test_blip_is_not_slower_at_ratio_one():
    timing, difference = blip_attention.compare(None, batch_size=4, rounds=7)
    assert timing.speedup >= 1.0
    assert difference < 1e-4


def test_training_steps_are_faster_too():
    """DINOv2-small at 224 pixels: forward, backward and update at ratio 0.9 (1.80x fewer operations)."""
    model = apply_pitome(AutoModel.from_pretrained(real_assets.dinov2_small()), 0.9).train()
    step = training_step(model, model)
    pixels = torch.randn(4, 3, 224, 224)
    timer = DenseMergedTimer(model, gradients=True)
    for _ in range(5):
        timer.run(lambda: step(pixel_values=pixels))
    assert timer.result().speedup > 1.3
