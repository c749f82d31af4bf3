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

"""Layers compiled one by one (`layer.compile()`, accelerate's `compile_regions`): how many graphs there are."""

import copy

import pytest
import torch
from accelerate.utils import compile_regions
from modeling.helpers import VISION, build, images
from torch._dynamo.testing import CompileCounterWithBackend
from zoo import all_cases, outputs_of
from zoo.text import text_inputs

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled
from optimum_pitome.modeling.rewrite import rewritten_encoders


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def layers_of(model):
    encoder = rewritten_encoders(model)[0]
    return encoder.pitome.architecture.find_layers(encoder)


def compile_layers(model, **settings):
    """Compiles a copy of `model` layer by layer: the copy, and what counts the graphs."""
    counter = CompileCounterWithBackend(settings.pop("backend", "eager"))
    compiled = copy.deepcopy(model)
    for layer in layers_of(compiled):
        layer.compile(backend=counter, **{"dynamic": True, **settings})
    return compiled, counter


def assert_alike(compiled, model, inputs):
    with torch.no_grad():
        found, expected = outputs_of(compiled(**inputs)), outputs_of(model(**inputs))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


def pixels(batch_size=2):
    return {"pixel_values": images(batch_size, seed=batch_size)}


@pytest.mark.parametrize("name", VISION)
def test_two_graphs_for_all_merging_layers(name):
    """The first one, whose tokens have no sizes yet, and the others; for every batch size and ratio."""
    model = apply_pitome(build(name), 0.8)
    compiled, counter = compile_layers(model)
    for batch_size in (2, 2, 3, 5):
        assert_alike(compiled, model, pixels(batch_size))
    assert counter.frame_count == 2
    for config in (0.9, {"ratio": [0.9, 0.7, 0.95, 0.8]}, PiToMeConfig(flops_ratio=1.5)):
        for each in (compiled, model):
            apply_pitome(each, config)
        assert_alike(compiled, model, pixels())
    dense = sum(spec.is_dense for spec in rewritten_encoders(model)[0].pitome.specs) > 0
    assert counter.frame_count == 2 + dense


def test_dense_layers_share_two_more():
    """Those before the first merge, and those after it, whose attention counts sizes."""
    model = apply_pitome(build("ViTModel", num_layers=8), {"ratio": 0.8, "layers": [3, 4, 6]})
    compiled, counter = compile_layers(model)
    for batch_size in (2, 3):
        assert_alike(compiled, model, pixels(batch_size))
    assert counter.frame_count == 4
    with pitome_disabled(model), pitome_disabled(compiled):
        assert_alike(compiled, model, pixels(4))


@pytest.mark.parametrize("margins", [[0.9, 0.5, 0.2, 0.1], None])
def test_settings_that_are_numbers_share_graphs(margins):
    model = apply_pitome(build("ViTModel"), {"ratio": 0.8, "energy": "paper", "margin": margins, "importance": 0.5})
    compiled, counter = compile_layers(model)
    assert_alike(compiled, model, pixels())
    for each in (compiled, model):
        apply_pitome(each, {"ratio": 0.7, "energy": "paper", "margin": 0.3, "importance": 0.4})
    assert_alike(compiled, model, pixels(3))
    assert counter.frame_count == 2


@pytest.mark.parametrize("name", ["BertModel", "ModernBertModel"])
def test_padded_texts(name):
    case = next((case for case in all_cases() if case.id == name), None)
    if case is None:
        pytest.skip(f"this transformers has no {name}")
    model = apply_pitome(case.build(), 0.8)
    compiled, counter = compile_layers(model)
    assert_alike(compiled, model, text_inputs(2, lengths=(24, 15), num_tokens=24))
    graphs = counter.frame_count
    for lengths in ((24, 24, 9), (40, 12), (31, 30, 29, 8)):
        assert_alike(compiled, model, text_inputs(len(lengths), lengths=lengths, num_tokens=max(lengths)))
    assert counter.frame_count == graphs <= 4


def test_without_dynamic_lengths_become_dynamic():
    """The compiler finds out by itself, with one graph more at each step."""
    model = apply_pitome(build("ViTModel", num_layers=8), 0.9)
    compiled, counter = compile_layers(model, dynamic=None)
    for batch_size in (2, 3):
        assert_alike(compiled, model, pixels(batch_size))
    assert counter.frame_count == 5
    assert_alike(compiled, model, pixels(4))
    assert counter.frame_count == 5


def test_regions_of_accelerate():
    model = apply_pitome(build("ViTForImageClassification"), 0.8)
    counter = CompileCounterWithBackend("eager")
    compiled = compile_regions(model, dynamic=True, backend=counter)
    assert_alike(compiled, model, pixels())
    graphs = counter.frame_count
    assert graphs <= 6  # two of layers; patches, norm and head are regions, too
    for batch_size in (3, 5):
        assert_alike(compiled, model, pixels(batch_size))
    apply_pitome(compiled, 0.9)
    apply_pitome(model, 0.9)
    assert_alike(compiled, model, pixels(3))
    assert counter.frame_count == graphs


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(checkpointing):
    model = apply_pitome(build("ViTModel"), 0.8).train()
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    compiled, counter = compile_layers(model, backend="aot_eager")
    for each in (model, compiled):
        for batch_size in (2, 3):
            each(**pixels(batch_size)).last_hidden_state.sin().sum().backward()
    for expected, found in zip(model.parameters(), compiled.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-4)
    assert counter.frame_count <= 3


def test_whoever_watches_sees_every_layer():
    model = apply_pitome(build("ViTModel"), 0.8)
    compiled, counter = compile_layers(model)
    seen = []
    rewritten_encoders(compiled)[0].pitome.watch = seen.append
    assert_alike(compiled, model, pixels())
    assert [record.index for record in seen] == [0, 1, 2, 3]
    # No graph is spent on it: each layer would take one of its own, of the eight that the compiler makes at most.
    assert counter.frame_count == 0
    rewritten_encoders(compiled)[0].pitome.watch = None
    assert_alike(compiled, model, pixels())
    assert counter.frame_count == 2


def test_the_whole_model_has_one_graph_for_all_batch_sizes_and_ratios():
    model = apply_pitome(build("ViTModel"), 0.8)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager", dynamic=True)
    assert_alike(compiled, model, pixels())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch_size in (3, 5):
            assert_alike(compiled, model, pixels(batch_size))
        for each in (compiled, model):
            apply_pitome(each, {"ratio": [0.9, 0.7, 0.95, 0.8]})
        assert_alike(compiled, model, pixels())


@pytest.mark.slow
def test_the_prompt_of_a_llava_takes_one_graph_more():
    case = next(case for case in all_cases() if case.id == "LlavaForConditionalGeneration")
    model, inputs, graphs = case.build(), case.inputs(2), []
    for ratio in (1.0, 0.8):
        apply_pitome(model, ratio)
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("eager")
        assert_alike(torch.compile(model, backend=counter), model, inputs)
        graphs.append(counter.frame_count)
    assert graphs[1] <= graphs[0] + 1
