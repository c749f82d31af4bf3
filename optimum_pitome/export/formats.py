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

"""The formats: how each is traced and written, and how its runtime is called."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from transformers.utils import logging as transformers_logging

from ..merging import exporting_for
from .modules import ExportedModule
from .requirements import OPSETS


#: A runtime with a file loaded: from inputs to outputs, by name.
Run = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]

Shapes = Mapping[str, Sequence[int]]

#: Protobuf holds 2 GiB at most: beyond this, weights lie beside the graph.
_ONE_FILE_BYTES = 3 * 2**29


@dataclass(frozen=True)
class Format:
    """
    Attributes:
        file (`str`): where the folder has it; ONNX where text-embeddings-inference looks for it.
        write (`Callable`): from module, example, opset and path: traces and writes.
        load (`Callable[..., Run]`): in its runtime, on a CPU, with as many threads as PyTorch has; from a path and,
            where they are known, the shapes of the inputs by name. OpenVINO then plans for them; the others gain
            nothing from it.
    """

    file: str
    write: Callable[[ExportedModule, dict[str, torch.Tensor], int | None, Path], None]
    load: Callable[..., Run]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say about versions, and about operators of packages that no encoder uses."""
    before, torch_logger = transformers_logging.get_verbosity(), logging.getLogger("torch.onnx")
    level = torch_logger.level
    transformers_logging.set_verbosity_error()
    torch_logger.setLevel(logging.ERROR)
    try:
        # The exporter prints its steps.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(before)
        torch_logger.setLevel(level)


def _traced(exporter: Any, config: type, module: ExportedModule, example: dict[str, torch.Tensor], **options: Any):
    """By an exporter of transformers, with a dynamic batch, and a dynamic length of texts."""
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} if module.kind == "text" else {0: Dim.DYNAMIC}
    options = {"dynamic": True, "dynamic_shapes": {name: axes for name in example}, **options}
    with _quiet(), torch.no_grad():
        exported = exporter().export(module, dict(example), config(**options))
    return getattr(exported, "program", exported)  # before transformers 5.24 it is the program itself


def _write_onnx(
    module: ExportedModule, example: dict[str, torch.Tensor], opset: int | None, path: Path, runtime: str = "onnx"
) -> None:
    import onnx_ir
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    with exporting_for(runtime):
        program = _traced(OnnxExporter, OnnxConfig, module, example, opset_version=opset or OPSETS.start)
    model = getattr(program, "model", program)
    for value in (*model.graph.inputs, *model.graph.outputs):
        has_tokens = value.name in module.token_outputs or (module.kind == "text" and value.name in example)
        names = ("batch", "sequence")[: 1 + has_tokens]
        value.shape = onnx_ir.Shape([*names, *list(value.shape)[len(names) :]])
    size = sum(one.const_value.nbytes for one in model.graph.initializers.values() if one.const_value is not None)
    onnx_ir.save(model, path, external_data=None if size < _ONE_FILE_BYTES else f"{path.name}_data")


def _load_onnx(path: Path, shapes: Shapes | None = None) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # OMP_NUM_THREADS says nothing to it, nor to OpenVINO
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = session.run(None, {one.name: inputs[one.name].cpu().numpy() for one in session.get_inputs()})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found)}

    return run


def _write_openvino(module: ExportedModule, example: dict[str, torch.Tensor], opset: int | None, path: Path) -> None:
    """From an ONNX file: what OpenVINO makes of exported programs it refuses to gather with, or types wrongly."""
    import openvino

    onnx_path = path.with_suffix(".onnx")
    _write_onnx(module, example, opset, onnx_path, "openvino")
    model = openvino.convert_model(onnx_path)
    # For what reads it, as transformers does. OpenVINO itself computes in bfloat16 on CPUs that have it, unless it is
    # told: energies and sizes, too, so other tokens merge.
    model.set_rt_info("f32", ["runtime_options", "INFERENCE_PRECISION_HINT"])
    openvino.save_model(model, path, compress_to_fp16=False)
    for file in path.parent.glob(f"{onnx_path.name}*"):
        file.unlink()


def _load_openvino(path: Path, shapes: Shapes | None = None) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if shapes is not None:
        # Or it works the shapes of all nodes out at every call.
        model.reshape({port.any_name: list(shapes[port.any_name]) for port in model.inputs})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)

    def run(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = compiled({port.any_name: inputs[port.any_name].cpu().numpy() for port in compiled.inputs})
        return {port.any_name: torch.tensor(value) for port, value in found.items()}

    return run


def _write_torch(module: ExportedModule, example: dict[str, torch.Tensor], opset: int | None, path: Path) -> None:
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

    torch.export.save(_traced(DynamoExporter, DynamoConfig, module, example), path)


def _load_torch(path: Path, shapes: Shapes | None = None) -> Run:
    # Its guards refuse lengths at which torch would trace a slice otherwise, with the same result.
    module = torch.export.load(path).module(check_guards=False)
    return lambda inputs: module(**inputs)


WRITERS = {
    "onnx": Format("onnx/model.onnx", _write_onnx, _load_onnx),
    "openvino": Format("openvino_model.xml", _write_openvino, _load_openvino),
    "torch": Format("model.pt2", _write_torch, _load_torch),
}
