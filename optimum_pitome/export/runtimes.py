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

"""A model in another runtime, or with int8 weights, for what measures it there beside PyTorch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ..apply import remove_pitome
from ..modeling.rewrite import rewritten_encoders
from .export import check_fit, prepare_export
from .formats import WRITERS, Run
from .quantization import QUANTIZERS, quantized
from .requirements import check_request
from .samples import shape_of


PYTORCH = "pytorch"


@dataclass(frozen=True)
class _File:
    path: Path
    inputs: tuple[str, ...]


class ExportedFiles:
    """Files that were exported from one model, each written once, in a folder that goes with the object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pitome-runtimes-")
        self._files: dict[tuple[Any, ...], _File] = {}

    def clear(self) -> None:
        self._files.clear()
        self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory(prefix="pitome-runtimes-")

    def load(
        self,
        model: nn.Module,
        key: str,
        runtime: str,
        quantize: str | None,
        batches: Sequence[Mapping[str, torch.Tensor]],
        fixed: bool = False,
    ) -> Run:
        """The model as it merges now, in another runtime.

        Args:
            model (`torch.nn.Module`): in float32 on the CPU.
            key (`str`): tells its settings from others of the same model.
            batches (`Sequence[Mapping]`):
                Inputs. Pictures have the size of the first batch; int8 in OpenVINO is calibrated on all of them.
            fixed (`bool`, *optional*, defaults to `False`):
                Whether all inputs will have the shapes of the first batch, which the runtime then plans for.

        Raises:
            ValueError: for what cannot be exported; and, when it is called, for inputs that the file does not take.
            ImportError: if a package is missing; the message names the extra.
        """
        check_request(runtime, quantize)
        check_fit(model, runtime)
        file = self._file(model, key, runtime, quantize, batches)
        first = completed(batches[0], file.inputs)
        run = WRITERS[runtime].load(file.path, {name: one.shape for name, one in first.items()} if fixed else None)
        return lambda inputs: run(completed(inputs, file.inputs))

    def _file(self, model: nn.Module, key: str, runtime: str, quantize: str | None, batches: Any) -> _File:
        full = (key, runtime, quantize)
        if full in self._files:
            return self._files[full]
        floats = None if quantize is None else self._file(model, key, runtime, None, batches)
        path = Path(self._folder.name) / str(len(self._files)) / WRITERS[runtime].file
        if floats is None:
            prepared = prepare_export(model, shape=shape_of(batches))
            path.parent.mkdir(parents=True, exist_ok=True)  # of one that could not be written
            WRITERS[runtime].write(prepared.module, prepared.example, None, path)
            found = _File(path, tuple(prepared.example))
        else:
            shutil.copytree(floats.path.parent, path.parent, dirs_exist_ok=True)
            QUANTIZERS[runtime](path, [completed(batch, floats.inputs) for batch in batches])
            found = _File(path, floats.inputs)
        self._files[full] = found
        return found


def completed(inputs: Mapping[str, Any], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What an exported file takes of a batch, and what a tokenizer left out of it because it says nothing.

    Raises:
        ValueError: if there is something that the file does not take.
    """
    usual = {"attention_mask": torch.ones_like, "token_type_ids": torch.zeros_like}
    unknown = [name for name in inputs if name not in {*names, *usual}]
    if unknown:
        raise ValueError(
            f"An exported file takes {', '.join(names)}, and the batches have {', '.join(unknown)}, too. Leave it out."
        )
    return {name: inputs[name] if name in inputs else usual[name](inputs["input_ids"]) for name in names}


@dataclass(frozen=True)
class Runtime:
    """Where [`~optimum_pitome.evaluate`] runs a model beside PyTorch: in another runtime, with int8 weights, or both.
    [`runtimes`] makes them.

    Attributes:
        runtime (`str`): `"pytorch"`, `"onnx"` or `"openvino"`; the last two on the CPU.
        quantize (`str`, *optional*): `"int8"`.
        files ([`ExportedFiles`]): shared by those that are exported from one model.
        calibration (`tuple[Mapping, ...]`): batches; int8 for OpenVINO needs them.
    """

    runtime: str
    quantize: str | None
    files: ExportedFiles
    calibration: tuple[Mapping[str, torch.Tensor], ...] = ()

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.runtime, self.quantize)))

    def load(self, model: nn.Module, key: str, batch: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
        """`model` as it merges now: called as it is, on batches such as `batch`, it returns what the model does.

        Raises:
            ValueError, ImportError: as of [`ExportedFiles.load`].
        """
        if self.runtime == PYTORCH:
            merges = all(encoder.pitome.enabled for encoder in rewritten_encoders(model))
            found = quantized(model)
            return found if merges else remove_pitome(found)  # a copy merges, whatever was disabled
        device = next(model.parameters()).device
        if device.type != "cpu":
            raise ValueError(f"Exported files run on the CPU, and the model is on {device}: move it there.")
        run = self.files.load(model, key, self.runtime, self.quantize, self.calibration or (batch,))
        return lambda **inputs: SimpleNamespace(**run(inputs))


def runtimes(
    names: Iterable[str],
    quantize: Iterable[str | None] = (None,),
    calibration: Iterable[Mapping[str, torch.Tensor]] = (),
) -> list[Runtime]:
    """Every combination of runtimes and quantisations, but for PyTorch without any.

    Args:
        names (`Iterable[str]`): of `"pytorch"`, `"onnx"` and `"openvino"`.
        quantize (`Iterable`, *optional*, defaults to `(None,)`): of `None` and `"int8"`.
        calibration (`Iterable[Mapping]`, *optional*):
            Batches of the model's inputs, none of which is evaluated. int8 for OpenVINO is calibrated on them.

    Raises:
        ValueError: for an unknown name, or int8 in OpenVINO without `calibration`.
        ImportError: if a package is missing; the message names the extra.
    """
    files, calibration, found = ExportedFiles(), tuple(map(dict, calibration)), []
    for name in names:
        for how in quantize:
            if name == PYTORCH and how is None:
                continue
            check_request("torch" if name == PYTORCH else name, how)
            if (name, how) == ("openvino", "int8") and not calibration:
                raise ValueError(
                    "int8 in OpenVINO is calibrated on inputs, and there are none: pass calibration=batches, of "
                    "samples that are not evaluated."
                )
            found.append(Runtime(name, how, files, calibration))
    return found
