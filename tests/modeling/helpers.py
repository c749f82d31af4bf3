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

"""Tiny models, their outputs, and what was done to them."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from zoo import all_cases, outputs_of


CASES = {case.id: case for case in all_cases()}


#: One of each kind of encoder of the ViT family: the encoder is the model itself, or a part of it; with registers.
VISION = [
    name
    for name in ("ViTForImageClassification", "DeiTModel", "Dinov2ForImageClassification", "Dinov2WithRegistersModel")
    if name in CASES
]


def build(name="ViTModel", attn_implementation="sdpa", num_layers=None, **settings):
    case = CASES[name]
    if num_layers is not None:
        config = case.config()
        config.num_hidden_layers = num_layers
        case = replace(case, config=lambda: config)
    return case.build(attn_implementation, **settings)


def images(batch_size=2, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 3, 32, 32, generator=generator).to(dtype)


def run(model, pixel_values=None, **kwargs):
    """The model's output tensors, by name."""
    with torch.no_grad():
        return outputs_of(model(images() if pixel_values is None else pixel_values, **kwargs))


def difference(outputs, others) -> float:
    assert outputs.keys() == others.keys()
    return max((outputs[name] - others[name]).abs().max().item() for name in outputs)


def snapshot(model):
    """Everything that a rewriting touches: classes, attributes, hooks, configurations."""
    found = {}
    for name, module in model.named_modules():
        attributes = {key: value for key, value in vars(module).items() if not isinstance(value, torch.nn.Parameter)}
        found[name, "class"] = type(module)
        for key, value in attributes.items():
            found[name, key] = copy.copy(value) if isinstance(value, (dict, list)) else value
        if "config" in attributes:
            found[name, "settings"] = module.config.to_json_string(use_diff=False)
            found[name, "implementation"] = module.config._attn_implementation
    return found


def assert_same_state(model, before):
    after = snapshot(model)
    assert after.keys() == before.keys(), after.keys() ^ before.keys()
    changed = [key for key in before if after[key] is not before[key] and after[key] != before[key]]
    assert not changed, changed
