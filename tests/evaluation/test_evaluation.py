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

import pytest
import torch
from transformers import ViTForImageClassification
from zoo.vit import vit_config

from optimum_pitome import apply_pitome, pitome_summary
from optimum_pitome.analysis.timing import DenseMergedTimer
from optimum_pitome.evaluation.evaluation import evaluate_classifier


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ViTForImageClassification(vit_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return apply_pitome(model, 0.6)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(4)]
    return [{"pixel_values": image, "labels": torch.arange(4) % 3} for image in images]


def test_evaluation_against_two_plain_passes(model, batches):
    evaluation = evaluate_classifier(model, iter(batches), source={"task": "image-classification"})
    labels = torch.cat([batch["labels"] for batch in batches])
    pixel_values = torch.cat([batch["pixel_values"] for batch in batches])
    with torch.no_grad():
        merged = model.eval()(pixel_values).logits.argmax(-1)
        summary = pitome_summary(model)
        dense = apply_pitome(model, 1.0)(pixel_values).logits.argmax(-1)
    assert evaluation.dense["accuracy"] == pytest.approx((dense == labels).float().mean().item())
    assert evaluation.merged["accuracy"] == pytest.approx((merged == labels).float().mean().item())
    agreement = (merged == dense).float().mean().item()
    assert evaluation.agreement["agreement"] == pytest.approx(agreement) and agreement < 1
    assert evaluation.num_samples == 16 and evaluation.batch_size == 4 and evaluation.timing.rounds == 4
    assert evaluation.flops_ratio == pytest.approx(summary.flops_ratio) and summary.flops_ratio > 1
    assert "same answer as dense" in str(evaluation) and "CPU" in str(evaluation)


def test_operations_are_counted_at_the_lengths_that_were_run(model, batches):
    larger = torch.nn.functional.interpolate(batches[0]["pixel_values"], size=(64, 64))
    batch = {"pixel_values": larger, "labels": batches[0]["labels"], "interpolate_pos_encoding": torch.tensor(True)}
    evaluation = evaluate_classifier(model, [batch])
    assert evaluation.gflops_dense == pytest.approx(pitome_summary(model, num_tokens=257).gflops_dense)


def test_the_model_is_left_as_it_was(model, batches):
    model.train()
    evaluate_classifier(model, batches)
    assert model.training and not [layer for layer in model.vit.layers if layer._forward_pre_hooks]


def test_what_cannot_be_evaluated(model, batches):
    with pytest.raises(ValueError, match="`batches` is empty"):
        evaluate_classifier(model, [])
    with pytest.raises(ValueError, match="This ViTForImageClassification is dense"):
        evaluate_classifier(ViTForImageClassification(vit_config()), batches)


def test_the_timer_alternates_and_warms_up(model, batches):
    seen = []
    timer = DenseMergedTimer(model, warmup=2)
    with pytest.raises(ValueError, match="Nothing was timed"):
        timer.result()
    for _ in range(3):
        dense, merged = timer.run(lambda: seen.append(model.vit.pitome.enabled) or seen[-1])
        assert (dense, merged) == (False, True)
    assert seen == [False, True] * 2 + [False, True] + [True, False] + [False, True]
    result = timer.result()
    assert result.rounds == 3 and result.speedup_low <= result.speedup <= result.speedup_high
    assert "3 rounds" in str(result)
