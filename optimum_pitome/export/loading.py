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

"""[`load_exported`]: what [`~optimum_pitome.export_pitome`] wrote, in its runtime."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from ..cards.card import EXPORTS
from .files import MANIFEST
from .formats import WRITERS, Run
from .requirements import FORMATS, check_request


#: Of a repository, the files of exports; weights for PyTorch are not fetched.
_FILES = [MANIFEST, "config.json", "onnx/*", "openvino_model.*", "model.pt2*", f"{EXPORTS}/*"]


@dataclass(frozen=True)
class LoadedExport:
    """An exported file in its runtime, on the CPU. Call it with inputs by name, as the model takes them; what it does
    not take of them is left out.

    Attributes:
        path (`pathlib.Path`): the file.
        format (`str`): of `export_pitome`.
        inputs, outputs (`tuple[str, ...]`): their names.
        manifest (`dict`): what was written beside the file: versions, and how it compares with PyTorch.
    """

    path: Path
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    manifest: dict[str, Any]
    _run: Run = field(repr=False)

    def __call__(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            inputs (`torch.Tensor`): `pixel_values` of shape `(batch_size, C, H, W)`, or `input_ids`, `attention_mask`
                and so on of shape `(batch_size, length)`.

        Returns:
            `dict[str, torch.Tensor]`: the outputs by name, float32.

        Raises:
            ValueError: if one of its inputs is missing.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise ValueError(f"{self.path} takes {', '.join(self.inputs)}, and {', '.join(missing)} was not given.")
        return self._run({name: inputs[name] for name in self.inputs})


def load_exported(
    name: str | os.PathLike, format: str | None = None, *, revision: str | None = None, **hub: Any
) -> LoadedExport:
    """Loads an exported file in its runtime: of a folder or a repository that is an export, or, of a recipe or a
    model, of the exports that lie beside it (`exported/onnx` and so on, where `--push-to-hub` puts them).

    Args:
        name (`str` or `os.PathLike`): a folder, or a Hub id.
        format (`str`, *optional*): `"onnx"`, `"openvino"` or `"torch"`, where there are several.
        revision (`str`, *optional*), hub (*optional*): for `huggingface_hub.snapshot_download`: `token`, `cache_dir`.

    Returns:
        [`LoadedExport`].

    Raises:
        ValueError: if there is no export, or several and none is asked for.
        FileNotFoundError: if there is neither a folder nor a repository that can be read.
        ImportError: if the runtime is not installed; the message names the extra.
    """
    if format is not None:
        check_request(format)
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=_FILES, **hub))
        except Exception as error:
            message = f"There is no folder {name} in {Path.cwd()}, and no such repository could be read: {error}"
            raise FileNotFoundError(message) from error
    places = [folder, *(folder / EXPORTS / one for one in FORMATS)]
    found = {}
    for place in places:
        if (place / MANIFEST).is_file():
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            found[manifest["format"]] = place / manifest["file"], manifest
    if format is None and len(found) > 1:
        raise ValueError(f"{name} was exported as {', '.join(found)}. Choose one: format={next(iter(found))!r}.")
    if not found or format not in (None, *found):
        what = f"{name} was exported as {', '.join(found)}, not as {format!r}"
        what = what if found else f"{name} holds no exported model: there is no {MANIFEST}"
        raise ValueError(f"{what}. Write it first: optimum-cli pitome export MODEL -o FOLDER.")
    path, manifest = found[format or next(iter(found))]
    # What torchao quantised is loaded by its operators; the other runtimes have theirs.
    check_request(manifest["format"], manifest["quantize"] if manifest["format"] == "torch" else None)
    names = (tuple(manifest[key]) for key in ("inputs", "outputs"))
    return LoadedExport(path, manifest["format"], *names, manifest, WRITERS[manifest["format"]].load(path))
