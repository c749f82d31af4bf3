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

"""Gradients, half precision and autocast."""

import pytest
import torch
from modeling.helpers import VISION, build, images, run

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.methods import ALGORITHMS


def parameters_with_gradients(model):
    model.train()
    output = model(images())
    sum(value.square().sum() for value in output.values()).backward()
    return {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", VISION)
def test_gradients_reach_every_parameter_that_had_them(name, attn_implementation):
    dense = parameters_with_gradients(build(name, attn_implementation))
    merged = parameters_with_gradients(apply_pitome(build(name, attn_implementation), 0.8))
    assert merged == dense and len(dense) > 20


def test_gradients_reach_every_pixel():
    model, pixel_values = apply_pitome(build(), 0.7), images().requires_grad_()
    model(pixel_values).last_hidden_state[:, 0].sum().backward()
    assert pixel_values.grad.abs().amin() > 0


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", VISION)
def test_half_precision(name, dtype, attn_implementation):
    model = build(name, attn_implementation, dtype=dtype)
    for config in (0.8, PiToMeConfig.paper(0.6), PiToMeConfig.official(0.6)):
        output = run(apply_pitome(model, config), images(dtype=dtype))
        for value in output.values():
            assert value.dtype == dtype and value.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_padding(dtype):
    mask = torch.arange(65).expand(2, -1) < torch.tensor([[65], [20]])
    for attn_implementation in ("eager", "sdpa"):
        model = apply_pitome(build("ViTModel", attn_implementation, dtype=dtype), 0.6)
        for form in (mask, mask[:, None, None, :].expand(-1, 1, 65, -1)):
            output = run(model, images(dtype=dtype), attention_mask=form)["last_hidden_state"]
            assert output.dtype == dtype and output.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_full_precision(dtype):
    """Merging decides by the same keys, so most groups agree: the mean error stays well below that of merging."""
    full = run(apply_pitome(build(), 0.9))["last_hidden_state"]
    half = run(apply_pitome(build(dtype=dtype), 0.9), images(dtype=dtype))["last_hidden_state"].float()
    dense = run(build())["last_hidden_state"]
    assert (half - full).abs().mean() < 0.35 * (dense - full).abs().mean()


@pytest.mark.usefixtures("pytorch_alone")
@pytest.mark.parametrize("name", VISION)
def test_autocast_matches_in_float32(name, monkeypatch):
    seen, original = [], ALGORITHMS["pitome"].match

    def spy(features, spec, masks):
        plan = original(features, spec, masks)
        seen.append((features.dtype, plan.merge_sizes(torch.ones(features.shape[:2])).dtype))
        return plan

    monkeypatch.setattr(ALGORITHMS["pitome"], "match", spy)
    model = apply_pitome(build(name), 0.8).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images())
        loss = sum(value.float().square().sum() for value in output.values())
    loss.backward()
    assert all(value.isfinite().all() for value in output.values())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert seen == [(torch.bfloat16, torch.float32)] * 4


def test_dropout_and_training_mode():
    model = build()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    apply_pitome(model, 0.8)
    evaluated = run(model)["last_hidden_state"]
    model.train()
    assert (run(model)["last_hidden_state"] - evaluated).abs().max() > 0.1
    model.eval()
    assert torch.equal(run(model)["last_hidden_state"], evaluated)
