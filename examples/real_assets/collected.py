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

"""Photos of a game for children: of animals, buildings, machines and things, each by itself."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, Features, Image, load_from_disk
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

from .data import _choice, made_once, png, unpacked_path


#: The parts of the game whose opaque pictures are photos.
_ACTIVITIES = (
    "categorization", "clickgame", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals",
    "explore_world_music",
)  # fmt: skip
_SIDE = 224


def collected_photos(split: str = "train") -> Dataset:
    """The middle squares of some 200 photos, 224×224 pixels. Column `image`. (Debian's gcompris-qt-data, GPL-3)

    Args:
        split (`str`): `"train"` (every second photo, in an order drawn by chance) or `"test"` (the others).
    """
    _choice("split", split, {"train": "", "test": ""})
    return load_from_disk(str(made_once("collected-photos", _collect) / split))


def _collect(folder: Path) -> None:
    root = unpacked_path("usr/share/gcompris-qt/rcc")
    pictures = {png(picture): None for name in _ACTIVITIES for picture in _photos_of(root / f"{name}.rcc")}
    pictures = list(pictures)  # no photo twice, so that none is in both parts
    random.Random(0).shuffle(pictures)
    for start, split in enumerate(("train", "test")):
        columns = {"image": [{"bytes": picture} for picture in pictures[start::2]]}
        Dataset.from_dict(columns, Features(image=Image())).save_to_disk(folder / split)


def _photos_of(path: Path) -> Iterator[PILImage.Image]:
    """The squares of what is a photo among the files of a Qt resource."""
    resource = path.read_bytes()
    magic, _, _, start, end = struct.unpack(">4s4I", resource[:20])
    if magic != b"qres":
        raise ValueError(f"{path} is no Qt resource.")
    while start < end:
        (size,) = struct.unpack_from(">I", resource, start)
        payload, start = resource[start + 4 : start + 4 + size], start + 4 + size
        try:
            picture = PILImage.open(io.BytesIO(payload))
        except UnidentifiedImageError:  # drawings as SVG, code, compressed texts
            continue
        if picture.mode == "RGB" and min(picture.size) >= _SIDE:
            yield ImageOps.fit(picture, (_SIDE, _SIDE), PILImage.Resampling.BICUBIC)
