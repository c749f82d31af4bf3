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

"""`torch.compile` in one graph, without recompilation, and `torch.export`."""

import pytest
import torch
from modeling.helpers import VISION, build, images
from zoo import outputs_of
from zoo.text import CASES, text_inputs

from optimum_pitome import PiToMeConfig, apply_pitome


COMPARED = ("mutual", "tofu", "dct", "diffrate")
LAYERS = 2  # tracing takes its time: two layers show what four would


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", VISION)
def test_compile_in_one_graph_and_once(name):
    model = apply_pitome(build(name, num_layers=LAYERS), 0.8)
    # `eager` runs the captured graph as it is: graph breaks and recompilation are dynamo's, whatever the backend.
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert_equal(compiled(images(seed=1)), model(images(seed=1)))
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_equal(compiled(images(seed=2)), model(images(seed=2)))


SETTINGS = [
    {},
    {"energy": "paper", "metric": "hidden_states"},
    {"weighted_by": "attention"},
    {"keep_norm": 0.5},
    *({"algorithm": name} for name in COMPARED),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "paper", "attention", "norm", *COMPARED])
def test_compile_with_a_padding_mask(settings):
    model = apply_pitome(build("ViTModel", num_layers=LAYERS), PiToMeConfig(0.8, **settings))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    masks = [torch.arange(65).expand(2, -1) < torch.tensor([[65], [length]]) for length in (40, 9)]
    with torch.no_grad():
        first = compiled(images(), attention_mask=masks[0])
        assert_equal(first, model(images(), attention_mask=masks[0]))
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_equal(compiled(images(), attention_mask=masks[1]), model(images(), attention_mask=masks[1]))


@pytest.mark.parametrize("algorithm", ["pitome", *COMPARED])
def test_compile_through_gradients(algorithm):
    model = apply_pitome(build(num_layers=LAYERS), PiToMeConfig(0.8, algorithm=algorithm))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(images()).last_hidden_state.square().sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    model(images()).last_hidden_state.square().sum().backward()
    for name, value in model.named_parameters():
        # An unused parameter gets zeros from the compiler, and nothing without it.
        if name in gradients and value.grad is not None:
            torch.testing.assert_close(gradients[name], value.grad, atol=1e-3, rtol=1e-4)


def test_a_new_setting_is_a_new_graph():
    model = apply_pitome(build(num_layers=LAYERS), 0.8)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        compiled(images())
        apply_pitome(model, 0.6)
        assert_equal(compiled(images()), model(images()))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", COMPARED)
def test_inductor_compiles_every_kind_of_plan(algorithm):
    """On a CPU, where operators take over: one graph for all lengths, of which the shortest has nothing to merge."""
    case = next(case for case in CASES if case.id == "BertModel")
    model = apply_pitome(case.build(), PiToMeConfig(0.8, algorithm=algorithm, layers=[0, 1]))
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for length in (10, 16, 5):
            inputs = {name: value[:, :length] for name, value in case.inputs(2).items()}
            torch.testing.assert_close(
                compiled(**inputs).last_hidden_state, model(**inputs).last_hidden_state, atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("algorithm", COMPARED)
def test_export_of_every_kind_of_plan(algorithm):
    model = apply_pitome(build(num_layers=LAYERS), PiToMeConfig(0.8, algorithm=algorithm))
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(model, (), {"pixel_values": images()}, dynamic_shapes=shapes).module()
    with torch.no_grad():
        for batch_size in (1, 3):
            assert_equal(program(pixel_values=images(batch_size)), model(images(batch_size)))


@pytest.mark.parametrize("name", VISION)
def test_export_with_any_batch_size(name):
    model = apply_pitome(build(name, num_layers=LAYERS), 0.8)
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=16)}}
    with torch.no_grad():
        program = torch.export.export(model, (), {"pixel_values": images(2)}, dynamic_shapes=shapes).module()
        for batch_size in (2, 1, 5):
            assert_equal(program(pixel_values=images(batch_size)), model(images(batch_size)), 1e-5)


def test_export_with_a_padding_mask():
    model = apply_pitome(build("ViTModel", num_layers=LAYERS), 0.8)
    mask = torch.arange(65).expand(2, -1) < torch.tensor([[65], [40]])
    batch = torch.export.Dim("batch", min=1, max=16)
    inputs = {"pixel_values": images(2), "attention_mask": mask}
    shapes = {name: {0: batch} for name in inputs}
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
        for lengths in ([65, 40], [10, 33, 65]):
            mask = torch.arange(65).expand(len(lengths), -1) < torch.tensor(lengths)[:, None]
            inputs = {"pixel_values": images(len(lengths)), "attention_mask": mask}
            output, expected = program(**inputs).last_hidden_state, model(**inputs).last_hidden_state
            torch.testing.assert_close(output[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_export_with_any_length_and_a_floor():
    """Texts of other lengths than the example's, some at the floor and some above it."""
    case = next(case for case in CASES if case.id == "BertModel")
    model = apply_pitome(case.build(), {"ratio": 0.7, "min_tokens": 9, "protect_token_ids": [*range(7, 30)]})
    inputs = text_inputs(2)
    shapes = {name: {0: torch.export.Dim("batch", min=1, max=16), 1: torch.export.Dim.DYNAMIC} for name in inputs}
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False).module()
        for length in (24, 40, 30):
            inputs = text_inputs(3, lengths=(length, 13, 9), num_tokens=length)
            mask = inputs["attention_mask"].bool()
            output, expected = program(**inputs).last_hidden_state, model(**inputs).last_hidden_state
            torch.testing.assert_close(output[mask], expected[mask], atol=1e-5, rtol=1e-5)


def assert_equal(output, expected, tolerance=1e-6):
    output, expected = outputs_of(output), outputs_of(expected)
    assert output.keys() == expected.keys()
    for name in output:
        torch.testing.assert_close(output[name], expected[name], atol=tolerance, rtol=tolerance)
