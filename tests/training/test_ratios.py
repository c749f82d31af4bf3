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

"""Ratios per layer: the budget and the search."""

import pytest
import torch
from training.tiny import Pictures, tiny_vit
from transformers import ViTModel
from zoo.text import bert_config, text_inputs
from zoo.vit import vit_config

from optimum_pitome import (
    PiToMeConfig,
    apply_pitome,
    pitome_disabled,
    pitome_summary,
    tune_ratios,
)
from optimum_pitome.training.budget import FlopsBudget
from optimum_pitome.training.tuning import feature_distance


def lively(model):
    """Weights that tell tokens apart; the usual initialisation hardly does."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def bert():
    from transformers import BertModel

    torch.manual_seed(0)
    return lively(BertModel(bert_config(), add_pooling_layer=False))


def test_budget_is_met_and_not_exceeded():
    model = apply_pitome(lively(tiny_vit()), PiToMeConfig(ratio=0.9, metric="hidden_states"))
    budget = FlopsBudget(model, 1.4)
    uniform = budget.uniform()
    assert len(set(uniform)) == 1 and 1.4 <= budget.ratio_of(uniform) < 1.5
    early = budget.scaled([0.3, 0.2, 0.1, 0.0])
    assert early[0] < early[1] < early[2] < early[3] == 1.0 and 1.4 <= budget.ratio_of(early) < 1.5
    late = budget.scaled([0.0, 0.1, 0.2, 0.3])  # alone, the last layers cannot save as much
    assert 1.0 > late[0] > late[1] > late[2] > late[3] == 0.5 and 1.4 <= budget.ratio_of(late) < 1.5
    kept = budget.scaled([0.4, 0.1, 0.1, 0.1], keep=0)
    assert kept[0] == 0.6 and kept[1] == kept[2] == kept[3]
    assert budget.config(late).metric == "hidden_states"


def test_budget_keeps_the_merging_layers_and_the_part():
    model = apply_pitome(bert(), {"text": {"ratio": 0.8, "layers": [1, 2]}})
    budget = FlopsBudget(model, 1.3, num_tokens=24)
    config = budget.config([0.9, 0.7])
    assert config.parts["text"]["ratio"] == [0.9, 0.7] and config.parts["text"]["layers"] == [1, 2]
    assert pitome_summary(apply_pitome(model, config), 24).tokens[:2] == [24, 24]


@pytest.mark.parametrize(
    "settings, flops_ratio, message",
    [
        (0.9, 50.0, "flops_ratio=50 is out of reach"),
        (0.9, 0.5, "above 1"),
        (0.9, "1.3", "flops_ratio='1.3': expected"),
        (1.0, 1.5, "No layer of the model merges"),
    ],
)
def test_budget_errors(settings, flops_ratio, message):
    with pytest.raises(ValueError, match=message):
        FlopsBudget(apply_pitome(tiny_vit(), settings), flops_ratio)
    with pytest.raises(ValueError, match="has 0 merging encoders"):
        FlopsBudget(tiny_vit(), flops_ratio)


def test_search_finds_the_layer_that_bears_merging():
    """Of two equal models, one changes its tokens only in the last layer: merging before it costs nothing."""
    torch.manual_seed(0)
    model = lively(ViTModel(vit_config(), add_pooling_layer=False))
    batches = [{"pixel_values": Pictures(16).pixels}]
    apply_pitome(model, 0.9)

    def only_the_first_layer(merged, dense, inputs):
        # A distance that punishes what the first layer removes, and nothing else.
        return torch.full((16,), 1.0 - model.config.pitome["ratio"][0]) + torch.linspace(0, 1e-3, 16)

    model.train()
    config = tune_ratios(model, batches, 1.3, distance=only_the_first_layer, progress=False)
    assert model.training and model.config.pitome["ratio"] == config.ratio
    assert config.ratio[0] > 0.95 and min(config.ratio[1:]) < 0.9
    assert pitome_summary(model).flops_ratio >= 1.3


@pytest.mark.parametrize("make", [lambda: lively(tiny_vit()), bert], ids=["logits", "features"])
def test_search_is_no_worse_than_uniform_on_its_samples(make):
    model = apply_pitome(make(), 0.8)
    inputs = text_inputs(8) if hasattr(model, "encoder") else {"pixel_values": Pictures(8).pixels}
    num_tokens = 24 if hasattr(model, "encoder") else None
    flops_ratio = 1.2
    config = tune_ratios(model, [inputs], flops_ratio, num_tokens=num_tokens, progress=False)
    distances = []
    uniform = FlopsBudget(apply_pitome(model, config), flops_ratio, num_tokens)
    for settings in (config, uniform.config(uniform.uniform())):
        with torch.no_grad(), pitome_disabled(model):
            dense = model(**inputs)
        with torch.no_grad():
            distances.append(feature_distance(apply_pitome(model, settings)(**inputs), dense, inputs).mean())
    assert distances[0] <= distances[1]


def test_search_errors_leave_the_model_alone():
    model = apply_pitome(tiny_vit(), 0.9)
    with pytest.raises(ValueError, match="No calibration batches"):
        tune_ratios(model, [], 1.3)
    with pytest.raises(ValueError, match="is a mapping of model inputs"):
        tune_ratios(model, [torch.zeros(2, 3, 32, 32)], 1.3)
    with pytest.raises(ValueError, match="out of reach"):
        tune_ratios(model, [], 100.0)
    assert model.config.pitome["ratio"] == 0.9
