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
"""Models that merge, exported: by transformers' own exporters, and by tracing."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import (
    BertModel,
    Blip2ForConditionalGeneration,
    LlavaForConditionalGeneration,
    MPNetModel,
    SiglipVisionModel,
    ViTModel,
)
from zoo import all_cases, outputs_of

from optimum_pitome import apply_pitome


exporters = pytest.importorskip("transformers.exporters", reason="transformers has exporters since 5.13")
pytestmark = pytest.mark.slow
COMPARED = ("mutual", "tofu", "dct", "diffrate")


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
    found = outputs_of(program(**captured))
    if model_class is LlavaForConditionalGeneration:
        # The exporter asks for hidden states in a way of its own, so the last layer runs, which nothing reads.
        found, expected = ({"hidden_states.3": outputs["hidden_states.3"]} for outputs in (found, expected))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("model_class", [ViTModel, BertModel])
def test_an_encoder_exports(model_class, dynamic):
    model, inputs = build(model_class)
    program, expected = export(model, dict(inputs), dynamic)
    torch.testing.assert_close(outputs_of(program(**inputs)), expected, atol=1e-5, rtol=1e-5)


#: One of each, as transformers' own tests of exporters have them: whole models, and composites that they take apart.
UPSTREAM = ("ViTForImageClassification", "Dinov2Model", "CLIPModel", "BertForSequenceClassification")
#: Of families that do something of their own: sound, clips, rotary embeddings, a pooling head, depth.
STATIC = ("WhisperModel", "Wav2Vec2Model", "VJEPA2Model", "ModernBertModel", "Siglip2Model", "DPTForDepthEstimation")


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [*((name, dynamic) for name in UPSTREAM for dynamic in (False, True)), *((name, False) for name in STATIC)],
    ids=lambda value: value if isinstance(value, str) else "dynamic" if value else "static",
)
def test_what_transformers_own_tests_of_exporters_do(name, dynamic):
    """Their `test_torch_export`: parts of composites from the arguments that were captured in a forward, each exported
    and compared. What is captured are a caller's arguments, never the state of a merge, whose settings are frozen."""
    from transformers.exporters.utils import (
        cast_leaf_tensors,
        decompose_multimodal,
        duplicate_leaf_tensors,
        get_leaf_tensors,
        is_multimodal,
    )

    case = next((case for case in all_cases() if case.id == name), None)
    if case is None:
        pytest.skip(f"{name} can be rewritten since a later transformers")
    config = case.config()
    for part in (config, getattr(config, "vision_config", None)):
        if part is not None:
            part.num_hidden_layers = 2
    model = apply_pitome(replace(case, config=lambda: config).build(), {"ratio": 0.8, "layers": [0]})
    inputs = cast_leaf_tensors(case.inputs(2), dtype=torch.float32, device=torch.device("cpu"))
    parts = decompose_multimodal(model, inputs) if is_multimodal(model) else {"model": (model, inputs)}
    for part, (module, captured) in parts.items():
        assert not any("pitome" in argument for argument in captured)
        if part != "language_model":
            assert any("pitome" in type(child).__module__ for child in module.modules())
        with torch.no_grad():
            expected = get_leaf_tensors(duplicate_leaf_tensors(module(**copy.deepcopy(captured))))
        config = exporters.DynamoConfig(dynamic=dynamic)
        exported = exporters.DynamoExporter().export(module, copy.deepcopy(captured), config)
        flags = ("return_dict", "output_hidden_states", "output_attentions", "use_cache")
        program = getattr(exported, "program", exported).module()
        with torch.no_grad():
            found = program(**{key: value for key, value in captured.items() if key not in flags})
        torch.testing.assert_close(get_leaf_tensors(found), expected, atol=1e-4, rtol=1e-4)


class ByPosition(torch.nn.Module):
    """The older exporter passes tensors by position; BERT's mask is its second argument only by name."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values):
        return self.model(**dict(zip(self.names, values)))[0]


@pytest.mark.filterwarnings("ignore")  # tracing warns of lengths, and of attributes of transformers that it reads
@pytest.mark.parametrize(
    ("model_class", "algorithm"),
    [
        *((model_class, "pitome") for model_class in (ViTModel, SiglipVisionModel, BertModel, MPNetModel)),
        *(
            (model_class, algorithm)
            for model_class in (ViTModel, BertModel)
            for algorithm in ("tofu", "dct", "diffrate")
        ),
    ],
)
def test_a_trace_serves_any_batch_size(model_class, algorithm):
    model, inputs = build(model_class)
    apply_pitome(model, {"ratio": 0.8, "algorithm": algorithm})
    model.config.return_dict = False
    traced = torch.jit.trace(model, example_kwarg_inputs=inputs, strict=False, check_trace=False)
    other = {name: torch.cat([value, value[:1]]) for name, value in inputs.items()}
    with torch.no_grad():
        for arguments in (inputs, other):
            torch.testing.assert_close(traced(**arguments)[0], model(**arguments)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # tracing warns of lengths, and of attributes of transformers that it reads
@pytest.mark.parametrize(  # BERT comes out wrong there when it is dense
    ("model_class", "algorithm"),
    [
        (ViTModel, "pitome"),
        (SiglipVisionModel, "pitome"),
        *((ViTModel, algorithm) for algorithm in COMPARED),
    ],
)
def test_the_older_onnx_export(model_class, algorithm, tmp_path):
    """`dynamo=False`, which traces."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the older export is checked with ONNX Runtime")
    model, inputs = build(model_class)
    apply_pitome(model, {"ratio": 0.8, "algorithm": algorithm})
    model.config.return_dict = False
    names, path = list(inputs), tmp_path / "model.onnx"
    axes = {name: {0: "batch"} for name in names}
    settings = {"input_names": names, "dynamic_axes": axes, "opset_version": 18}
    torch.onnx.export(ByPosition(model, names), tuple(inputs.values()), path, dynamo=False, **settings)
    session = onnxruntime.InferenceSession(path)
    other = {name: torch.cat([value, value[:1]]) for name, value in inputs.items()}
    for arguments in (inputs, other):
        found = session.run(None, {name: value.numpy() for name, value in arguments.items()})[0]
        with torch.no_grad():
            expected = model(**arguments)[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_what_the_older_onnx_export_gets_wrong_is_refused(tmp_path):
    model, inputs = build(ViTModel)
    apply_pitome(model, {"ratio": 0.8, "algorithm": "random"})
    with pytest.raises(RuntimeError, match="dynamo=True"):
        torch.onnx.export(model, (inputs["pixel_values"],), tmp_path / "model.onnx", dynamo=False)
