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

"""What must hold for every registered encoder, on one model of each: saving, gradients, graphs."""

import pytest
import torch
from families.test_merged_layers import each_case
from families.test_parity import largest_difference, run
from zoo import all_cases, outputs_of

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.modeling.rewrite import rewritten_encoders


@each_case
def test_it_loads_as_it_was_saved_and_by_a_recipe(case, tmp_path):
    model, inputs = case.build(), case.inputs(2)
    model.save_pretrained(tmp_path / "dense")
    settings = {"ratio": 0.8, "layers": [0, 1]}
    merged = run(apply_pitome(model, settings), inputs)
    model.save_pretrained(tmp_path / "merged")
    PiToMeConfig(**settings, base_model_name_or_path=str(tmp_path / "dense")).save_pretrained(tmp_path / "recipe")
    for folder in ("merged", "recipe"):
        loaded = case.model_class.from_pretrained(tmp_path / folder).eval()
        assert type(loaded) is case.model_class and largest_difference(run(loaded, inputs), merged) < 1e-5
    dense = case.model_class.from_pretrained(tmp_path / "merged", pitome=False).eval()
    assert not rewritten_encoders(dense)
    assert largest_difference(run(dense, inputs), merged) > 1e-6


def gradients_of(case, checkpointing=False, merges=True):
    model = case.build()
    if merges:
        apply_pitome(model, {"ratio": 0.8, "layers": [0, 1]})
    model.train()
    model.config.layerdrop = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(0)
    outputs = outputs_of(model(**case.inputs(2)))
    sum(value.square().mean() for value in outputs.values() if value.requires_grad).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@each_case
def test_gradients_reach_what_they_reached_before(case):
    found, dense = gradients_of(case), gradients_of(case, merges=False)
    assert found.keys() == dense.keys()
    assert all(gradient.isfinite().all() for gradient in found.values())
    if not case.model_class.supports_gradient_checkpointing:
        return
    again = gradients_of(case, checkpointing=True)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, again[name], atol=1e-4, rtol=1e-3, msg=name)


#: One for each thing that the mechanism does for some families only.
MECHANISMS = {
    "YolosModel": "a forward of ours in place of the encoder's, special tokens at the end",
    "VideoMAEModel": "an encoder without keyword arguments from its model, attention of ours",
    "VJEPA2Model": "layers without keyword arguments to their attention, places as arguments",
    "ModernBertModel": "windows",
    "EuroBertModel": "fewer keys than queries",
    "Siglip2VisionModel": "a mask of another name",
    "HubertModel": "a mask that the model around it makes",
    "WhisperModel": "a decoder that reads merged tokens",
    "ASTModel": "an ordinary one",
}
each_mechanism = pytest.mark.parametrize(
    "case", [case for case in all_cases() if case.id in MECHANISMS], ids=lambda case: case.id
)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each_mechanism
def test_compile_in_one_graph(case, fresh_compiler):
    model, inputs = apply_pitome(case.build(), {"ratio": 0.8, "layers": [0, 1]}), case.inputs(2)
    expected = run(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert largest_difference(outputs_of(compiled(**inputs)), expected) < 1e-5


#: One of each kind that cannot be traced.
UNTRACEABLE = [
    case
    for case in all_cases()
    if case.id in ("Qwen2VisionTransformerPretrainedModel", "EomtForUniversalSegmentation")
]
each_untraceable = pytest.mark.parametrize("case", UNTRACEABLE, ids=lambda case: case.id)


@pytest.mark.slow
@each_untraceable
def test_compile_in_several_graphs(case, fresh_compiler):
    model, inputs = apply_pitome(case.build(), {"ratio": 0.8, "layers": [0, 1]}), case.inputs(2)
    expected = run(model, inputs)
    with torch.no_grad():
        assert largest_difference(outputs_of(torch.compile(model, backend="eager")(**inputs)), expected) < 1e-5


@each_untraceable
def test_the_dense_model_has_no_single_graph(case, fresh_compiler):
    """Where this fails, it can be traced now, and the entry need not say otherwise."""
    with torch.no_grad(), pytest.raises(Exception, match="[Dd]ata-dependent"):
        torch.compile(case.build(), fullgraph=True, backend="eager")(**case.inputs(2))


def test_compiled_hidden_states_return_to_their_length(fresh_compiler):
    """Those that the model around the encoder collects, too."""
    case = next(case for case in all_cases() if case.id == "VideoMAEModel")
    model, inputs = apply_pitome(case.build(), 0.8), {**case.inputs(2), "output_hidden_states": True}
    expected = run(model, inputs)
    with torch.no_grad():
        found = outputs_of(torch.compile(model, fullgraph=True, backend="eager")(**inputs))
    assert largest_difference(found, expected) < 1e-5 and "hidden_states.3" in found


@pytest.mark.slow
@each_mechanism
def test_export(case):
    model, inputs = apply_pitome(case.build(), {"ratio": 0.8, "layers": [0, 1]}), case.inputs(2)
    model.config.use_cache = False  # a cache among the outputs does not export
    expected = run(model, inputs)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, strict=False).module()
        assert largest_difference(outputs_of(program(**inputs)), expected) < 1e-5
