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

"""int8: what the tools of each runtime make of a written file. Only layers with weights are quantised: what tokens are
matched by stays in the model's dtype."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .requirements import check_request


def quantize_onnx(path: Path, calibration: list[Mapping[str, torch.Tensor]]) -> None:
    """Weights to int8, by channel; activations while it runs (`onnxruntime.quantization`, which needs no data)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # shapes of weights that quantisation transposes
    onnx.save(model, path)
    quantized = path.with_suffix(".int8")
    # MatMul without a constant (attention, similarities) stays as it is; convolutions get slower.
    settings = {"op_types_to_quantize": ["MatMul", "Gemm"], "extra_options": {"MatMulConstBOnly": True}}
    quantize_dynamic(path, quantized, per_channel=True, weight_type=QuantType.QInt8, **settings)
    quantized.replace(path)


def quantize_openvino(path: Path, calibration: list[Mapping[str, torch.Tensor]]) -> None:
    """With calibration inputs weights and activations to int8, else weights alone (`nncf`)."""
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    if calibration:
        names = [port.any_name for port in model.inputs]
        data = nncf.Dataset([{name: batch[name].cpu().numpy() for name in names} for batch in calibration])
        scope = nncf.IgnoredScope(names=list(_without_weights(model)))
        settings = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(calibration), "ignored_scope": scope}
        with _quiet("nncf"):
            model = nncf.quantize(model, data, **settings)
    else:
        with _quiet("nncf"):
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    quantized = path.with_name("quantized.xml")
    openvino.save_model(model, quantized, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        quantized.with_suffix(suffix).replace(path.with_suffix(suffix))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without what a library notes of its steps; its warnings are still told."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _without_weights(model: Any) -> Iterable[str]:
    """Products of two activations."""
    for node in model.get_ops():
        if node.get_type_name() == "MatMul" and not any(_is_constant(node.input_value(index)) for index in (0, 1)):
            yield node.get_friendly_name()


def _is_constant(value: Any) -> bool:
    node = value.get_node()
    while node.get_type_name() in ("Convert", "Transpose", "Reshape"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant"


def quantized(model: nn.Module) -> nn.Module:
    """A copy with int8 weights in its linear layers, and activations that become int8 while it runs (torchao).

    Raises:
        ImportError: if torchao is not installed; the message names the extra.
    """
    check_request("torch", "int8")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


#: What quantises the files of each format. For `torch` the model is quantised before it is traced.
QUANTIZERS = {"onnx": quantize_onnx, "openvino": quantize_openvino}
