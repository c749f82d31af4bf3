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

"""[`export_pitome`]: a model that merges, as a file for ONNX Runtime, OpenVINO or PyTorch, compared with the model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from ..analysis.plain import Plain
from ..configuration.checks import NotReachedError
from ..methods import ALGORITHMS
from ..modeling.eval_mode import eval_mode
from ..modeling.registry import encoder_configs
from ..modeling.requirements import versions_of
from ..modeling.rewrite import check_model, rewritten_encoders
from .comparison import Comparison, check, compare
from .files import check_output, save_beside, whole_folder
from .formats import WRITERS
from .modules import ExportedModule, exported_module, is_sentence_transformer, transformers_model
from .quantization import QUANTIZERS, quantized
from .requirements import check_request
from .samples import Samples, samples_for, shape_of, text_inputs, to_device


_VERSIONS = ("optimum_pitome", "transformers", "torch", "onnx", "onnxruntime", "openvino", "nncf", "torchao")


@dataclass(frozen=True)
class Export(Plain):
    """What [`export_pitome`] wrote.

    Attributes:
        path (`pathlib.Path`): the file that the runtime loads.
        inputs, outputs (`tuple[str, ...]`): their names.
        comparison ([`Comparison`]): with the model in PyTorch, on inputs that were made up.
        on_inputs ([`Comparison`], *optional*): the same on those that were given.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    comparison: Comparison
    on_inputs: Comparison | None = None

    def __str__(self) -> str:
        text = f"{self.path}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}\nmade up, {self.comparison}"
        return text if self.on_inputs is None else f"{text}\nyour data, {self.on_inputs}"


def export_pitome(
    model: nn.Module,
    output: str | os.PathLike,
    format: str = "onnx",
    *,
    part: str | None = None,
    quantize: str | None = None,
    opset: int | None = None,
    processor: Any = None,
    inputs: Iterable[Mapping[str, torch.Tensor]] = (),
    tolerance: float | None = None,
    repository: str | None = None,
) -> Export:
    """Writes a model as it merges into a folder, loads the file in its runtime, and compares it with PyTorch on other
    inputs than were traced: other batch sizes, and of texts other lengths, padded and not.

    The size of the batch is open, and the length of texts; the size of pictures is that of `inputs`, of what
    `processor` makes, or of the configuration. Nothing is left behind if anything fails.

    Args:
        model (`torch.nn.Module`):
            A model of transformers (encoder or classifier of pictures or texts), rewritten or dense, or one of
            sentence-transformers. It stays as it is.
        output (`str` or `os.PathLike`): a folder, new or empty.
        format (`str`, *optional*, defaults to `"onnx"`):
            `"onnx"` (`onnx/model.onnx`), `"openvino"` (`openvino_model.xml`) or `"torch"` (`model.pt2`).
        part (`str`, *optional*):
            `"vision"` or `"text"`, of models with both: CLIP, SigLIP, dual encoders. `image_embeds` or `text_embeds`
            are what `get_image_features` or `get_text_features` says.
        quantize (`str`, *optional*): `"int8"`.
        opset (`int`, *optional*, defaults to 18): of ONNX.
        processor (*optional*): tokenizer or image processor to write beside it.
        inputs (`Iterable[Mapping[str, torch.Tensor]]`, *optional*):
            Batches of your data, as the model takes them: the file is compared on them, too, where the mean of
            1 - cosine may be 0.05. (In flat areas of pictures tokens are alike to the last bits, and runtimes round in
            their own ways, so other tokens merge, with little effect.) int8 for OpenVINO is calibrated on them;
            without, weights alone are quantised.
        tolerance (`float`, *optional*):
            On inputs that are made up, the largest difference relative to the largest value of an output, 1e-3 by
            default; of int8, on all inputs, the mean of 1 - cosine, 0.05 by default.
        repository (`str`, *optional*): Hub id that the card in the folder is for.

    Returns:
        [`Export`].

    Raises:
        ValueError: for what cannot be exported, `inputs` that lack what the model takes, a folder that is not empty,
            or a file that differs from the model (`NotReachedError`).
        TypeError: if `model` is not a module.
        ImportError: if a package is missing; the message names the extra.
        OSError: if it cannot be written.
    """
    check_model("export_pitome", model)
    check_request(format, quantize, opset, part)
    writer = WRITERS[format]
    config = transformers_model(model).config
    check_fit(model, format)
    check_output(output)
    tokenizer = model.tokenizer if is_sentence_transformer(model) else processor
    with contextlib.ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        inputs = [dict(batch) for batch in inputs]
        module, samples, example, outputs = prepare_export(model, part, tokenizer, shape_of(inputs, processor))
        given = _read(inputs, samples.names)  # before there is a folder: what fails in it is no failure to write
        folder = stack.enter_context(whole_folder(output))
        file = folder / writer.file
        file.parent.mkdir(exist_ok=True)
        bar = stack.enter_context(logging.tqdm(total=3 + bool(given), unit=" steps", leave=False, disable=None))
        bar.set_description("tracing and writing")
        with _explaining(f"{type(module.model).__name__} could not be traced and written as format={format!r}"):
            before = quantize is not None and format not in QUANTIZERS
            writer.write(quantized(module) if before else module, example, opset, file)
        if quantize is not None and not before:
            QUANTIZERS[format](file, given)
        bar.update()
        bar.set_description("loading in its runtime")
        with _explaining("The runtime does not run the exported file"):
            run = writer.load(file)
            bar.update()
            bar.set_description("comparing with PyTorch")
            comparison = compare(module, run, (to_device(batch, model) for batch in samples.fresh()))
        check(comparison, quantize is not None, tolerance)
        bar.update()
        on_inputs = None
        if given:
            batches = logging.tqdm(given, leave=False, disable=None, desc="your data")
            on_inputs = compare(module, run, (to_device(batch, model) for batch in batches))
            check(on_inputs, True, tolerance if quantize is not None else None)
        manifest = {
            "format": format,
            "file": writer.file,
            "model": config.name_or_path or None,
            "part": part,
            "quantize": quantize,
            "inputs": list(example),
            "outputs": list(outputs),
            "comparison": asdict(comparison),
            "comparison_on_inputs": None if on_inputs is None else asdict(on_inputs),
            "versions": versions_of(_VERSIONS),
        }
        save_beside(model, processor, folder, manifest, comparison, repository)
    return Export(Path(output) / writer.file, tuple(example), tuple(outputs), comparison, on_inputs)


class PreparedExport(NamedTuple):
    """What is traced (`module`), on what (`example`), what else it can be tried on (`samples`), and what it returned
    (`outputs`)."""

    module: ExportedModule
    samples: Samples
    example: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]


def prepare_export(
    model: nn.Module, part: str | None = None, tokenizer: Any = None, shape: tuple[int, int, int] | None = None
) -> PreparedExport:
    """See [`export_pitome`] for the arguments. The model is in eval mode afterwards.

    Args:
        shape (`tuple[int, int, int]`, *optional*): of pictures, `(channels, height, width)`. Else the configuration's.

    Raises:
        ValueError: for what cannot be exported.
    """
    config = transformers_model(model).config
    module = exported_module(model, part, getattr(tokenizer, "pad_token_id", None))
    names = text_inputs(config, tokenizer) if module.kind == "text" else ("pixel_values",)
    if module.kind == "image":
        configs = [getattr(config, "vision_config", config), *encoder_configs(model)]
        config = next((one for one in configs if getattr(one, "image_size", None) is not None), config)
    samples = samples_for(config, module.kind, names, tokenizer, shape)
    example = to_device(samples.example(), model)
    return PreparedExport(module, samples, example, _name_outputs(module, example))


@contextlib.contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Errors of exporters and runtimes, which have many classes, as one with a sentence before them."""
    try:
        yield
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:
        raise NotReachedError(f"{what}. Nothing was kept. {type(error).__name__}: {error}") from error


def _name_outputs(module: ExportedModule, example: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Runs the module, and finds which of its outputs have a row for each token of a text.

    Raises:
        ValueError: if it has no outputs.
    """
    with torch.no_grad():
        outputs = module(**example)
        if not outputs:
            raise ValueError(f"{type(module.model).__name__} returns no tensors that could be exported.")
        if module.kind == "text":
            length = next(iter(example.values())).shape[1]
            shorter = module(**{name: value[:, : length - 1] for name, value in example.items()})
            module.token_outputs = frozenset(
                name
                for name, value in outputs.items()
                if value.dim() > 1 and (value.shape[1], shorter[name].shape[1]) == (length, length - 1)
            )
    return outputs


def _read(batches: list[dict[str, torch.Tensor]], names: tuple[str, ...]) -> list[dict[str, torch.Tensor]]:
    """What the model takes of each batch.

    Raises:
        ValueError: if a batch lacks something.
    """
    for index, batch in enumerate(batches):
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(
                f"inputs: batch {index} has {', '.join(map(str, batch)) or 'nothing'} and lacks {', '.join(missing)}. "
                f"The exported model takes {', '.join(names)}: give all of them in every batch."
            )
    return [{name: batch[name] for name in names} for batch in batches]


def check_fit(model: nn.Module, format: str) -> None:
    """Refuses what the runtime of a format cannot compute, before anything is traced.

    Raises:
        ValueError: with what to do.
    """
    if format != "torch" and any(weight.dtype == torch.bfloat16 for weight in model.parameters()):
        raise ValueError(
            f"The model has weights in bfloat16, which format={format!r} cannot be compared in. Load it with "
            "dtype=torch.float32, or export model.float()."
        )
    if format != "openvino":
        return
    for spec in (spec for encoder in rewritten_encoders(model) for spec in encoder.pitome.specs):
        if ALGORITHMS[spec.algorithm].draws and not spec.ratio.is_dense:
            raise ValueError(
                f"algorithm={spec.algorithm!r} leaves something to chance, and draws it by products of 64-bit "
                "integers, which OpenVINO computes with 32 bits and wrongly. Use format='onnx' or 'torch', or another "
                "algorithm."
            )
