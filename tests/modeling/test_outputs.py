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

"""What a rewritten model returns besides its last hidden state."""

import pytest
import torch
from modeling.helpers import VISION, build, difference, images, run
from transformers.utils import output_capturing
from zoo import outputs_of

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.modeling.rewrite import rewritten_encoders


LENGTHS = {65: (65, 53, 43, 35, 29)}  # CLS and 64 patches, r = 0.8


def lengths(name):
    """Tokens before each layer and after the last, at r = 0.8."""
    prefix = {"DeiTModel": 2, "Dinov2WithRegistersModel": 4}.get(name, 1)
    patches = [64]
    for _ in range(4):
        patches.append(patches[-1] - patches[-1] // 5)
    return [prefix + count for count in patches]


@pytest.mark.parametrize("name", VISION)
def test_hidden_states_and_attentions(name):
    model = apply_pitome(build(name, "eager"), 0.8)
    plain = run(model)
    output = run(model, output_hidden_states=True, output_attentions=True)
    assert difference({key: output[key] for key in plain}, plain) == 0.0
    hidden_states = [output[f"hidden_states.{i}"] for i in range(5)]
    attentions = [output[f"attentions.{i}"] for i in range(4)]
    assert f"hidden_states.{5}" not in output and "attentions.4" not in output
    # Original length for hidden states; weights among the tokens that were there.
    assert {value.shape[1] for value in hidden_states} == {lengths(name)[0]}
    assert [value.shape[-1] for value in attentions] == lengths(name)[:4]
    for weights in attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    dense = run(build(name, "eager"), output_hidden_states=True)
    torch.testing.assert_close(hidden_states[0], dense["hidden_states.0"])
    # After layer i, a token has the vector of its group, and there are as many groups as tokens left.
    for value, length in zip(hidden_states, lengths(name)):
        assert len(value[0].unique(dim=0)) == length


@pytest.mark.skipif(
    not hasattr(output_capturing, "select_hidden_states"), reason="this transformers returns all hidden states or none"
)
@pytest.mark.parametrize("name", VISION)
def test_some_hidden_states_may_be_asked_for(name):
    """All layers run nevertheless, since the caller reads the rest of the output, too."""
    model = apply_pitome(build(name), 0.8)
    plain, all_states = run(model), run(model, output_hidden_states=True)
    output = run(model, output_hidden_states=[1])
    assert difference({key: output[key] for key in plain}, plain) == 0.0
    assert torch.equal(output["hidden_states.1"], all_states["hidden_states.1"])


@pytest.mark.parametrize("name", VISION)
def test_short_outputs_without_unmerge(name):
    config = PiToMeConfig(0.8, unmerge=False)
    model = build(name)
    encoder_name = next(key for key, module in model.named_modules() if module in rewritten(model))
    output = run(apply_pitome(model, config), output_hidden_states=True)
    assert [output[f"hidden_states.{i}"].shape[1] for i in range(5)] == lengths(name)
    if encoder_name == "":
        assert output["last_hidden_state"].shape[1] == lengths(name)[-1]
    full = run(apply_pitome(build(name), 0.8))
    if "logits" in full and name.startswith("ViT"):  # reads CLS only
        torch.testing.assert_close(output["logits"], full["logits"])


def rewritten(model):
    apply_pitome(model, 0.8)
    encoders = rewritten_encoders(model)
    return encoders


@pytest.mark.parametrize("settings", [{}, {"output_hidden_states": True, "output_attentions": True}])
@pytest.mark.parametrize("name", VISION)
def test_tuples(name, settings):
    model = apply_pitome(build(name, "eager"), 0.8)
    named = run(model, **settings)
    with torch.no_grad():
        output = model(images(), return_dict=False, **settings)
    assert isinstance(output, tuple)
    flat = [item for value in output for item in (value if isinstance(value, tuple) else [value])]
    assert len(flat) == len(named)
    for value, expected in zip(flat, named.values()):
        assert torch.equal(value, expected)


def test_tuples_by_configuration():
    model = build()
    model.config.return_dict = False
    apply_pitome(model, 0.8)
    with torch.no_grad():
        output = model(images())
    assert isinstance(output, tuple)
    assert torch.equal(output[0], outputs_of(apply_pitome(build(), 0.8)(images()))["last_hidden_state"])


def test_settings_of_the_configuration_reach_the_outputs():
    model = build("ViTModel", "eager")
    apply_pitome(model, 0.8)
    model.config.output_hidden_states = model.config.output_attentions = True
    output = run(model)
    assert "hidden_states.4" in output and "attentions.3" in output
