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
"""transformers' own exporters on models that merge."""

import pytest
import torch
from transformers import (
    BertModel,
    Blip2ForConditionalGeneration,
    LlavaForConditionalGeneration,
    ViTModel,
)
from zoo import all_cases, outputs_of

from optimum_pitome import apply_pitome


exporters = pytest.importorskip("transformers.exporters", reason="transformers has exporters since 5.13")


def build(model_class):
    case = next(case for case in all_cases() if case.model_class is model_class)
    return apply_pitome(case.build(), 0.8), case.inputs(2)


def export(model, inputs, dynamic=False):
    """What `DynamoExporter` makes of a module, and what the module itself computes."""
    with torch.no_grad():
        expected = outputs_of(model(**inputs))
    exported = exporters.DynamoExporter().export(model, inputs, exporters.DynamoConfig(dynamic=dynamic))
    return getattr(exported, "program", exported).module(), expected  # before 5.24 it is the program itself


@pytest.mark.parametrize("model_class", [LlavaForConditionalGeneration, Blip2ForConditionalGeneration])
def test_the_parts_of_a_composite_export(model_class):
    from transformers.exporters.utils import decompose_multimodal

    model, inputs = build(model_class)
    parts = decompose_multimodal(model, inputs)
    module, captured = parts["image_encoder"]
    program, expected = export(module, captured)
    assert any("pitome" in type(child).__module__ for child in module.modules())
    torch.testing.assert_close(outputs_of(program(**captured)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("model_class", [ViTModel, BertModel])
def test_an_encoder_exports(model_class, dynamic):
    model, inputs = build(model_class)
    program, expected = export(model, dict(inputs), dynamic)
    torch.testing.assert_close(outputs_of(program(**inputs)), expected, atol=1e-5, rtol=1e-5)
