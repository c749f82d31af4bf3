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

"""Inputs that are made up from a model's configuration."""

import pytest
import torch
from zoo import all_cases, one_per_encoder, outputs_of

from optimum_pitome import apply_pitome
from optimum_pitome.benchmarking import inputs
from optimum_pitome.benchmarking.inputs import example_inputs


#: Tiny configurations of two say other sizes than those of the pictures that the tests give them, and the third is
#: refused before transformers 5.23.
_LEFT_OUT = ("DepthProForDepthEstimation", "DPTForDepthEstimation", "VideoLlavaForConditionalGeneration")
CASES = {case.id: case for case in (*one_per_encoder(), *all_cases()) if case.id not in _LEFT_OUT}
#: One of each configuration, and further heads that take other inputs.
NAMES = [case.id for case in one_per_encoder() if case.id in CASES]
NAMES += ["ViTForImageClassification", "BertForSequenceClassification", "BlipForConditionalGeneration"]
#: What of an image is read depends on how the processor cuts or lists it: take your own batches.
REFUSED = (
    "LlavaNext",
    "LlavaOnevision",
    "Idefics",
    "SmolVLM",
    "ModernVBert",
    "ColModernVBert",
    "InstructBlip",
    "Qwen",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_runs_on_them(name, monkeypatch):
    monkeypatch.setattr(inputs, "_SAMPLES", 4000)
    if name.startswith("Qwen"):
        monkeypatch.setattr("optimum_pitome.families.qwen_vision._SIDE", 32)  # pixels
    model = apply_pitome(CASES[name].build(), 0.8)
    prompts = name.startswith(REFUSED) and "Vision" not in name
    if prompts or name == "Blip2ForImageTextRetrieval":
        with pytest.raises(ValueError, match="makes its image features in a way that is not known here"):
            example_inputs(model, 1)
        return
    with torch.no_grad():
        for batch_size in (1, 2):
            output = model(**example_inputs(model, batch_size))
            tensors = outputs_of(output)
            assert tensors and all(value.isfinite().all() for value in tensors.values())


def test_lengths_of_texts():
    model = CASES["BertForSequenceClassification"].build()
    assert example_inputs(model, 3, 9)["input_ids"].shape == (3, 9)
    with pytest.raises(ValueError, match="--sequence-length is for texts"):
        example_inputs(CASES["ViTModel"].build(), 3, 9)
