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

"""The folder that an export writes: whole, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import cached_file, logging

from ..hub.model_cards import write_card
from .modules import is_sentence_transformer, transformers_model


logger = logging.get_logger(__name__)

#: What was exported and how it compares: tells an exported folder from a checkpoint.
MANIFEST = "pitome_export.json"


@contextlib.contextmanager
def whole_folder(output: str | os.PathLike) -> Iterator[Path]:
    """A new folder, beside `output` or in it where that exists, that takes its place at the end; after an error there
    is nothing. An existing folder may be the working directory, a link to a folder, or a mount: it stays.

    Raises:
        ValueError: if something lies in `output`.
        OSError: if it cannot be written there.
    """
    output = check_output(output).resolve()
    exists = output.is_dir()
    place = output if exists else output.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=place))
    except OSError as error:
        raise OSError(f"{output}: no folder can be made in {place} ({error.strerror or error}).") from error
    moved = []
    try:
        folder = private / output.name
        folder.mkdir()  # who may read it is up to the umask; temporary folders are private
        yield folder
        if not exists:
            folder.replace(output)
            return
        for item in list(folder.iterdir()):
            moved.append(item.replace(output / item.name))
        moved.clear()
    except OSError as error:
        if error.errno is None or error.filename is None and not error.strerror:
            raise
        what = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        failure = OSError(f"{output}: writing failed ({what}). Nothing was kept.")
        failure.errno = error.errno
        raise failure from error
    finally:
        for item in moved:
            shutil.rmtree(item) if item.is_dir() else item.unlink()
        shutil.rmtree(private, ignore_errors=True)


def check_output(output: str | os.PathLike) -> Path:
    """Refuses a folder in which something lies.

    Raises:
        ValueError: with what to do.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        what = "an export lies there already" if (output / MANIFEST).is_file() else "it exists and is not empty"
        raise ValueError(f"{output}: {what}. Name another folder, or remove it first.")
    return output


def check_source(name: str, revision: str | None = None) -> None:
    """Refuses a folder or a repository that is an export.

    Raises:
        ValueError: with what to name instead.
    """
    manifest = cached_file(name, MANIFEST, revision=revision, _raise_exceptions_for_missing_entries=False)
    if manifest is None:
        return
    source = json.loads(Path(manifest).read_text(encoding="utf-8")).get("model")
    raise ValueError(
        f"{name} was exported already, and has no weights for PyTorch. Name the model that it was exported from"
        f"{'' if source is None else f': {source}'}."
    )


def save_beside(
    model: Any, processor: Any, folder: Path, manifest: dict[str, Any], comparison: Any, repository: str | None
) -> None:
    """Writes what runtimes and readers need beside the exported file: configuration, tokenizer or image processor,
    pooling settings, card, and the manifest."""
    inner = transformers_model(model)
    if is_sentence_transformer(model):
        model.save_pretrained(str(folder), create_model_card=False)
        for weights in (*folder.rglob("*.safetensors"), *folder.rglob("pytorch_model.bin")):
            weights.unlink()  # which the exported file has
    elif processor is not None:
        processor.save_pretrained(folder)
    inner.config.save_pretrained(folder)
    inputs, outputs = (", ".join(f"`{name}`" for name in manifest[key]) for key in ("inputs", "outputs"))
    runtime = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch": "`torch.export.load`"}[manifest["format"]]
    exported = (
        f"`{manifest['file']}` is for {runtime}, from {inputs} to {outputs}. On inputs that were made up, {comparison}"
    )
    write_card(inner, folder, repository, exported=exported, place=folder.resolve().name)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
