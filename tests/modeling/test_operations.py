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

"""What counts as a linear layer, whatever its class, and what a merge counts."""

import pytest
import torch
from modeling.helpers import build
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.pytorch_utils import Conv1D

from optimum_pitome import apply_pitome, pitome_summary
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks
from optimum_pitome.modeling.operations import Widths, linear_weights, merge_step, prefill


def counted(model):
    summary = pitome_summary(model)
    return [(layer.gflops_dense, layer.gflops_merged, layer.gflops_merge_step) for layer in summary.layers]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_dynamically_quantised_models_count_as_the_others():
    model = apply_pitome(build("ViTForImageClassification"), 0.8)
    expected, ratio = counted(model), pitome_summary(model).flops_ratio
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    layer = quantised.vit.layers[0]
    assert not any(isinstance(module, nn.Linear) for module in layer.modules())  # so it is a case
    assert counted(quantised) == expected and pitome_summary(quantised).flops_ratio == ratio


def test_layers_of_gpt2_and_packed_weights():
    class Packed(nn.Module):
        """As GPTQ and bitsandbytes keep them: the sizes as numbers, the weights in another shape."""

        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 6, 4
            self.weight = nn.Parameter(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)

    assert linear_weights(Conv1D(6, 4)) == linear_weights(Packed()) == linear_weights(nn.Linear(4, 6)) == 24
    # A table is read, not multiplied by; nor is a norm.
    assert linear_weights(nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 6))) == 24


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks by the old name
def test_an_adapter_counts_beside_its_layer_and_only_while_it_runs():
    from peft import LoraConfig, get_peft_model

    model = apply_pitome(build("ViTForImageClassification"), 0.8)
    dense = linear_weights(model.vit.layers[0])
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj"]))
    adapted.add_adapter("other", LoraConfig(r=5, target_modules=["q_proj"]))
    layer = adapted.base_model.model.vit.layers[0]
    width = model.config.hidden_size
    assert linear_weights(layer) == dense + 3 * 2 * width
    adapted.set_adapter("other")
    assert linear_weights(layer) == dense + 5 * 2 * width
    with adapted.disable_adapter():
        assert linear_weights(layer) == dense
    adapted.merge_adapter()
    assert linear_weights(layer) == dense
    # 5 · 2 · C more in each layer's attention, of 65 tokens in the first.
    adapted.unmerge_adapter()
    more = pitome_summary(adapted).layers[0].gflops_dense
    adapted.merge_adapter()
    assert (more - pitome_summary(adapted).layers[0].gflops_dense) * 1e9 == pytest.approx(65 * 10 * width)


def test_prefill_by_hand():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
    )
    with torch.device("meta"):
        model = LlamaModel(config)
    attention = 12 * 24 + 2 * 12 * 12 + 24 * 12  # queries, keys and values, output
    assert prefill(model, 7) == 3 * (7 * (attention + 3 * 12 * 20) + 2 * 7**2 * 24)


@pytest.mark.parametrize("algorithm", ["pitome", "diffrate", "mutual", "tofu", "dct", "random"])
def test_only_means_that_get_shorter_keep_a_norm(algorithm):
    plain, kept = (MergeSpec(KeepRatio.from_float(0.8), algorithm=algorithm, keep_norm=share) for share in (0.0, 0.5))
    shortens = algorithm in ("pitome", "diffrate", "mutual")
    assert TokenMasks(1).weights(kept)[2] == (0.5 if shortens else 0.0)
    # Norms before and after, and scaling: 64 tokens become 52.
    counted = [merge_step(spec, 64, 12, Widths(attention=0, mlp=0, hidden=32, heads=2)) for spec in (plain, kept)]
    assert counted[1] - counted[0] == ((64 + 2 * 52) * 32 if shortens else 0)
