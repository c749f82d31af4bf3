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

"""The claims of the README on real weights and data: what merging keeps of the dense model, and how fast it is."""

import json
import statistics
import sys
import time

import blip_attention
import pytest
import real_assets
import text_classification
import torch
from accelerate import Accelerator
from common import HeldOutHeads, fit_held_out_heads
from generated_reactions import generated_reactions
from image_data import collate, load_labelled_pictures
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoModel, AutoModelForMaskedLM, AutoTokenizer, ViTModel

from optimum_pitome import apply_pitome, pitome_disabled, pitome_summary
from optimum_pitome.analysis.timing import DenseMergedTimer
from optimum_pitome.commands.benchmark import training_step


pytestmark = pytest.mark.real


class _Replay(torch.nn.Module):
    """A classifier over features that were computed before."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.head = torch.nn.Linear(dim, num_classes)

    def forward(self, features):
        return self.head(features)


def test_the_default_keeps_98_percent_of_the_answers_at_ratio_09():
    """703 labelled pictures, five-fold heads trained on dense features; dense and merged alternate batch by batch."""
    directory = real_assets.dinov2_small_as_vit()
    pictures = load_labelled_pictures("stamps", None, True, None).test
    model = apply_pitome(ViTModel.from_pretrained(directory, add_pooling_layer=False).eval(), 0.9)
    assert pitome_summary(model).flops_ratio == pytest.approx(1.8, abs=0.01)
    loader = DataLoader(pictures, 16, collate_fn=collate(AutoImageProcessor.from_pretrained(directory)))
    dense, merged, labels, folds, faster = [], [], [], [], []
    with torch.inference_mode():
        for batch in loader:
            start = time.perf_counter()
            with pitome_disabled(model):
                dense.append(model(batch["pixel_values"]).last_hidden_state[:, 0])
            between = time.perf_counter()
            merged.append(model(batch["pixel_values"]).last_hidden_state[:, 0])
            faster.append((between - start) / (time.perf_counter() - between))
            labels.append(batch["labels"])
            folds.append(batch["fold"])
    replay = _Replay(dense[0].shape[1], len(pictures.features["label"].names))
    batches = [{"features": f, "labels": y, "fold": k} for f, y, k in zip(dense, labels, folds)]
    heads = fit_held_out_heads(replay, replay.head, batches, Accelerator(cpu=True))
    assert isinstance(heads, HeldOutHeads)
    dense, merged, labels, folds = (torch.cat(values) for values in (dense, merged, labels, folds))

    def answers(features):
        with torch.inference_mode():
            return heads(features)[torch.arange(len(folds)), folds].argmax(dim=1)

    assert len(labels) >= 500
    agreement = (answers(merged) == answers(dense)).float().mean().item()
    accuracy, dense_accuracy = ((answers(f) == labels).float().mean().item() for f in (merged, dense))
    assert agreement >= 0.98
    assert dense_accuracy >= 0.8 and abs(accuracy - dense_accuracy) <= 0.01
    # Other tests share the machine, so this is a floor: `optimum-cli pitome benchmark` measures.
    assert statistics.median(faster) > 1.4


def test_text_keeps_its_answers_at_1_6_times_fewer_operations(monkeypatch, tmp_path):
    """The text example on 20 Newsgroups, with fewer documents than the README's table."""
    settings = {"layers": [1, 2, 3], "min_tokens": 64}
    options = ("--ratios", "0.7", "--pitome", json.dumps(settings), "--max-train", "1200", "--max-samples", "600")
    monkeypatch.setattr(sys, "argv", ["text_classification.py", *options, "--output-dir", str(tmp_path)])
    text_classification.main()
    dense, merged = json.loads((tmp_path / "results.json").read_text())["results"]
    assert dense["gflops"] / merged["gflops"] >= 1.6
    assert merged["agreement"] >= 0.92
    assert dense["accuracy"] >= 0.72 and abs(merged["accuracy"] - dense["accuracy"]) <= 0.02
    assert merged["speed_up"] > 1.3


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
    faster, difference = blip_attention.compare(str(real_assets.dinov2_small_as_blip_vision()), batch_size=4, rounds=7)
    assert statistics.median(faster) >= 1.0
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
