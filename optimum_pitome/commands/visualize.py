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

"""`optimum-cli pitome visualize`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from ..evaluation.data import UNREADABLE, is_saved_dataset
from ..modeling.rewrite import rewritten_encoders
from ..modeling.signatures import names
from ..visualization.saving import save_picture, save_texts
from ..visualization.visualize import visualize
from .arguments import reason_of
from .media import (
    SOUNDS,
    TAKEN,
    MissingPackage,
    largest_part,
    part_of_files,
    reader_of,
    takes_clips,
)
from .preparing import prepare_texts
from .results import Results
from .unlabelled import model_class, one_setting


def run(args: argparse.Namespace, results: Results) -> None:
    texts = _texts(args)
    if bool(texts) == bool(args.images):
        raise ValueError(
            "Name pictures, clips or sounds, or folders of them; or texts with --text or --text-file: one of the two."
        )
    if args.side < 64:
        raise ValueError(f"--side {args.side}: expected at least 64 pixels.")
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise ValueError(f"--output {args.output} is a file: name a folder.")
    for path in map(Path, args.images):
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder. Name a text with --text.")
        if is_saved_dataset(path):
            raise ValueError(
                f"{path}: this is a data set that save_to_disk wrote, which evaluate and tune read. Name files of "
                "pictures, clips or sounds here, or folders of them."
            )
    name = args.model
    config, keyword = one_setting(args)
    model = model_class(config).from_pretrained(args.model, revision=args.revision, dtype=args.dtype, **keyword)
    part = "text" if texts else part_of_files(model)
    model = largest_part(part, model)
    paths = args.images if part == "text" else _paths(args.images, part, model)
    try:
        model.to(args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {error}") from None
    settings = {"model": name, "settings": rewritten_encoders(model)[0].pitome.config.to_pitome_dict()}
    if texts:
        _draw_texts(args, results, model, texts, settings)
    else:
        _draw_files(args, results, part, model, paths, settings)


def _draw_texts(
    args: argparse.Namespace, results: Results, model: nn.Module, texts: list[str], about: dict[str, Any]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.revision)
    prepare = prepare_texts(args)
    samples = []
    for text in logging.tqdm(texts, disable=None, unit=" texts"):  # by itself: padding of the shorter would be drawn
        samples += visualize(model, prepare([text]), tokenizer, part="text")
    _check_layers(args, samples)
    for number, sample in enumerate(samples, 1):
        results.add(f"text {number}: {_shown(sample)}", texts=[_tokens(sample)])
    written = save_texts(samples, args.output, layers=args.show_layers, about=about)
    results.add(" ".join(map(str, written)), **about, files=written)


def _draw_files(
    args: argparse.Namespace,
    results: Results,
    part: str,
    model: PreTrainedModel,
    paths: list[Path],
    about: dict[str, Any],
) -> None:
    processor, read, prepare = reader_of(args, part, model)
    taken: set[str] = set()
    for path in logging.tqdm(paths, disable=None, unit=" files"):
        try:
            shown = read(path)
        except MissingPackage as error:
            raise ValueError(f"{path}: {error}") from None
        except UNREADABLE as error:
            sys.stderr.write(f"{path} is left out, since it cannot be read: {error}\n")  # an error: --quiet or not
            results.add(left_out=[path])
            continue
        inputs = prepare(shown)
        # A tower takes nothing of what the processor tells the model around it, and tiles as so many pictures.
        inputs = {name: value for name, value in inputs.items() if name in names(type(model).forward)}
        if part == "vision" and not takes_clips(model) and inputs["pixel_values"].dim() == 5:
            inputs["pixel_values"] = inputs["pixel_values"].flatten(0, 1)
        samples = visualize(model, inputs, processor, part=part)
        _check_layers(args, samples)
        name = _free(path.stem, taken)
        for number, sample in enumerate(samples):  # a model may cut a picture into tiles
            title = name if len(samples) == 1 else f"{name}-{number}"
            details = {"file": str(path), **about}
            written = save_picture(sample, args.output, title, args.show_layers, args.side, details)
            entry = {"file": path, "name": title, **_tokens(sample), "files": written}
            results.add(f"{title}: {_shown(sample)}\n{' '.join(map(str, written))}", drawn=[entry])
    results.add(**about)
    if not taken:
        raise ValueError("None of the files could be read.")


def _check_layers(args: argparse.Namespace, samples: list[Any]) -> None:
    count = len(samples[0].layers)
    if any(not -count <= layer < count for layer in args.show_layers or ()):
        given = " ".join(map(str, args.show_layers))
        raise ValueError(f"--show-layers {given}: expected some of the layers 0 to {count - 1}.")


def _tokens(sample: Any) -> dict[str, int]:
    return {"tokens": sample.summary()["tokens"], "tokens_left": sample.layers[-1].num_tokens}


def _shown(sample: Any) -> str:
    return "{tokens} tokens, {tokens_left} after the last layer".format(**_tokens(sample))


def _texts(args: argparse.Namespace) -> list[str]:
    texts = list(args.texts or [])
    if args.text_file is not None:
        try:
            texts += Path(args.text_file).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(
                f"--text-file {args.text_file}: {reason_of(error)}. Or name texts with --text."
            ) from error
        if not any(text.strip() for text in texts):
            raise ValueError(f"--text-file {args.text_file}: there is no text in it.")
    return [text for text in texts if text.strip()]


def _paths(files: list[str], part: str, model: PreTrainedModel) -> list[Path]:
    """The files, and those in the folders that are called like pictures, or sounds. A folder of pictures is one clip,
    where a model takes clips."""
    if part == "vision" and takes_clips(model):
        return list(map(Path, files))
    endings = SOUNDS if part == "audio" else Image.registered_extensions()
    found: list[Path] = []
    for path in map(Path, files):
        inside = [path]
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in endings and one.is_file())
        if not inside:
            raise ValueError(f"{path}: there are no {TAKEN[part][1]} in this folder.")
        found += inside
    return found


def _free(stem: str, taken: set[str]) -> str:
    """A name for the drawings of a file: its own, or one with a number where another file is called so."""
    name, number = stem, 2
    while name.lower() in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name.lower())
    return name
