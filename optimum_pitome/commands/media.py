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

"""Files that `optimum-cli pitome visualize` reads, as inputs of a model: pictures, clips, sounds; and which part of a
model takes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor, PreTrainedModel
from transformers.audio_utils import load_audio
from transformers.utils import is_torchvision_available
from transformers.video_utils import load_video

from ..evaluation.questions import rgb
from ..modeling.rewrite import rewritten_encoders


#: From a path to what a processor takes; and from that to the inputs of the model.
Reader = tuple[Any, Callable[[Path], Any], Callable[[Any], Any]]
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff")


#: What models take of each part, and what people call it.
TAKEN = {
    "text": (("input_ids",), "texts"),
    "vision": (("pixel_values", "pixel_values_videos"), "pictures"),
    "audio": (("input_values", "input_features"), "sounds"),
}


def part_of_files(model: PreTrainedModel) -> str:
    """`"audio"` where sounds merge in `model`, and else `"vision"`."""
    merging = {encoder.pitome.architecture.part for encoder in rewritten_encoders(model)}
    return "audio" if "audio" in merging and "vision" not in merging else "vision"


def largest_part(part: str, model: PreTrainedModel) -> PreTrainedModel:
    """The largest part of `model` that merges and takes texts, pictures or sounds alone: a CLIP's tower, say.

    Raises:
        ValueError: if there is none.
    """
    arguments, kind = TAKEN[part]
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.main_input_name in arguments:
            encoders = rewritten_encoders(module)
            merging = {encoder.pitome.architecture.part for encoder in encoders}
            # An encoder has the configuration of the encoder-decoder around it.
            if part in merging and (module in encoders or not module.config.is_encoder_decoder):
                return module
    raise ValueError(f"{type(model).__name__} merges nothing of {kind}: see docs/models.md for what merges in which.")


def reader_of(args: argparse.Namespace, part: str, model: PreTrainedModel) -> Reader:
    """The processor of a model, how to read a file for it, and how to make inputs of that.

    Args:
        part (`str`): `"vision"` or `"audio"`.

    Raises:
        ValueError: if a package is missing.
    """
    where = {"revision": args.revision}
    if part == "audio":
        processor = AutoFeatureExtractor.from_pretrained(args.model, **where)
        rate = processor.sampling_rate
        return processor, partial(read_sound, rate=rate), partial(_extract, processor, rate)
    if not takes_clips(model):
        processor = AutoImageProcessor.from_pretrained(args.model, **where)
        return processor, read_picture, lambda picture: processor(rgb([picture]), return_tensors="pt")
    kind = AutoVideoProcessor if is_torchvision_available() else AutoImageProcessor
    try:
        processor = kind.from_pretrained(args.model, **where)
    except (ImportError, ValueError) as error:  # there are few without torchvision
        if kind is AutoVideoProcessor:
            raise
        raise ValueError(
            f"{args.model}: its processor of clips needs torchvision (pip install torchvision), which is not here. "
            f"{str(error).splitlines()[0][:200]}"
        ) from None
    number = getattr(model.config, "num_frames", None) or model.config.frames_per_clip
    return processor, partial(read_clip, number=number), lambda frames: processor([frames], return_tensors="pt")


def takes_clips(model: PreTrainedModel) -> bool:
    """Whether the tokens of a model go through several frames."""
    return hasattr(model.config, "tubelet_size")


def read_picture(path: Path) -> Image.Image:
    """The picture, upright."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture)


def read_clip(path: Path, number: int) -> list[Image.Image]:
    """`number` frames at even distances: of an animation, of a video, or of a folder with pictures, by name."""
    if path.is_dir():
        endings = Image.registered_extensions()
        pictures = sorted(one for one in path.iterdir() if one.suffix.lower() in endings)
        if not pictures:
            raise ValueError("there are no pictures in this folder")
        return rgb([read_picture(pictures[index]) for index in _even(len(pictures), number)])
    if path.suffix.lower() in Image.registered_extensions() and path.suffix.lower() not in (".mpg", ".mpeg"):
        with Image.open(path) as animation:
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
        return [frames[index] for index in _even(len(frames), number)]
    try:
        frames, _ = load_video(
            str(path), sample_indices_fn=lambda metadata, **_: _even(metadata.total_num_frames, number)
        )
    except ImportError as error:
        raise MissingPackage(f"Videos are read with PyAV (pip install av). {error}") from None
    return [Image.fromarray(frame) for frame in frames]


def read_sound(path: Path, rate: int) -> np.ndarray:
    """The samples, `(length,)` float32, at `rate` per second."""
    try:
        return load_audio(str(path), sampling_rate=rate)
    except ImportError as error:
        raise MissingPackage(f"Sounds are read with other packages (pip install soundfile soxr). {error}") from None


class MissingPackage(Exception):
    """No file of this kind can be read here."""


def _even(length: int, number: int) -> list[int]:
    """`number` places among `length`, from the first to the last."""
    if length < 1:
        raise ValueError("it does not say how many frames it has")
    return np.linspace(0, length - 1, number).round().astype(int).tolist()


def _extract(processor: Any, rate: int, wave: np.ndarray) -> Any:
    return processor(wave, sampling_rate=rate, return_tensors="pt")
