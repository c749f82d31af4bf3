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

"""The divergence from the same model run dense."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, kl_div, log_softmax
from training.tiny import Pictures, history, make_trainer, tiny_vit
from transformers import BertForSequenceClassification, ViTModel
from zoo.text import bert_config, text_inputs
from zoo.vit import vit_config

from optimum_pitome import DenseDistillation, PiToMeCallback, apply_pitome, pitome_disabled


def lively(model, settings):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return apply_pitome(model, settings)


@pytest.fixture
def model():
    return lively(tiny_vit(hidden_dropout_prob=0.1), 0.7).train()


def dense_outputs(model, inputs):
    model.eval()
    with torch.no_grad(), pitome_disabled(model):
        outputs = model(**inputs, output_hidden_states=True)
    model.train()
    return outputs


def test_divergence_of_classes(model):
    inputs = {"pixel_values": Pictures(4).pixels}
    outputs = model(**inputs)
    found = DenseDistillation(weight=3.0, temperature=4.0)(model, {**inputs, "labels": torch.zeros(4).long()}, outputs)
    dense = dense_outputs(model, inputs).logits
    expected = kl_div(
        log_softmax(outputs.logits / 4, -1), log_softmax(dense / 4, -1), reduction="batchmean", log_target=True
    )
    assert found.item() == pytest.approx(3 * 16 * expected.item(), rel=1e-5) and found > 0
    found.backward()
    assert model.vit.layers[0].mlp.fc1.weight.grad.abs().sum() > 0


def test_no_divergence_without_merging_and_dropout():
    model = apply_pitome(tiny_vit(), 1.0).train()
    inputs = {"pixel_values": Pictures(4).pixels}
    distillation = DenseDistillation(features="mse")
    assert distillation(model, inputs, model(**distillation.prepare(inputs))) == 0


@pytest.mark.parametrize("features", ["cosine", "mse"])
def test_distance_of_features_leaves_padding_out(features):
    model = lively(BertForSequenceClassification(bert_config()), 0.7).eval()
    inputs, distillation = text_inputs(3), DenseDistillation(weight=0.0, features=features, feature_weight=2.0)
    outputs = model(**distillation.prepare(inputs))
    real = inputs["attention_mask"].bool()
    merged, dense = outputs.hidden_states[-1][real], dense_outputs(model, inputs).hidden_states[-1][real]
    model.eval()
    expected = 1 - cosine_similarity(merged, dense, dim=-1) if features == "cosine" else (merged - dense).square()
    assert distillation(model, inputs, outputs).item() == pytest.approx(2 * expected.mean().item(), rel=1e-4)


def test_modes_and_merging_are_left_as_they_were(model):
    model.vit.layers[0].eval()
    before = [module.training for module in model.modules()]
    inputs = {"pixel_values": Pictures(2).pixels}
    outputs = model(**inputs)
    DenseDistillation()(model, inputs, outputs)
    assert [module.training for module in model.modules()] == before and True in before and False in before
    with pytest.raises(ValueError, match="channel dimension"):
        DenseDistillation()(model, {"pixel_values": torch.zeros(2, 5, 32, 32)}, outputs)
    assert [module.training for module in model.modules()] == before and model.vit.pitome.enabled


def test_errors(model):
    with pytest.raises(ValueError, match="temperature=0"):
        DenseDistillation(temperature=0)
    with pytest.raises(ValueError, match="weight=-1"):
        DenseDistillation(weight=-1)
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        DenseDistillation(features="cosines")
    inputs = {"pixel_values": Pictures(2).pixels}
    with pytest.raises(ValueError, match="compares hidden_states, .* Use features=None"):
        DenseDistillation(features="mse")(model, inputs, model(**inputs))
    headless = apply_pitome(ViTModel(vit_config(), add_pooling_layer=False), 0.7)
    with pytest.raises(ValueError, match="compares logits, .* Use weight=0.0"):
        DenseDistillation()(headless, inputs, headless(**inputs))
    short = apply_pitome(headless, {"ratio": 0.7, "unmerge": False})
    distillation = DenseDistillation(weight=0.0, features="mse")
    with pytest.raises(ValueError, match="unmerge=True"):
        distillation(short, inputs, short(**distillation.prepare(inputs)))


def test_it_pulls_the_merging_model_to_the_dense_one():
    model, inputs, distillation = lively(tiny_vit(), 0.6), {"pixel_values": Pictures(16).pixels}, DenseDistillation()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    found = []
    for _ in range(10):
        divergence = distillation(model, inputs, model(**inputs))
        divergence.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(divergence.item())
    assert found[-1] < 0.5 * found[0]


def test_it_is_in_the_training_loss_and_not_in_the_evaluation(tmp_path):
    found = []
    for distillation in (None, DenseDistillation(weight=5.0)):
        callback = PiToMeCallback(0.6, "constant", distillation=distillation)
        trainer = make_trainer(tmp_path, callback, model=lively(tiny_vit(), 0.6), max_steps=1)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        found.append((before, history(trainer, "loss")[0]))
    assert found[0][0] == found[1][0] and found[1][1] > found[0][1]
