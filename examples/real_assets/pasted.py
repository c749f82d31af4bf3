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

"""Cut-out pictures pasted onto photos, with the mask of what was pasted: labels of every pixel, without a person."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, load_from_disk
from PIL import Image as PILImage

from .data import _choice, made_once, photos, png, unpacked_path


#: Of the cut-out pictures, in a random order; the rest is the test part.
_PARTS = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, None)}
#: Smaller ones would give themselves away by their blur.
_SMALLEST = 96
_SIDE = 224


def pasted_stamps(split: str = "test") -> Dataset:
    """Stamps whose background is transparent, each on a square cut from a photo, 224×224 pixels. Columns `image`, and
    `mask`: 1 where the stamp is, 0 where the photo is. (The stamps of `stamps`, GPL-2, on the `photos`)

    Each stamp is in one place at random, its longer side 35 to 80 % of the picture's. No stamp and no photo is in two
    parts.

    Args:
        split (`str`): `"train"` (300 pictures), `"validation"` (100) or `"test"` (233).
    """
    part = _choice("split", split, _PARTS)

    def make(directory: Path) -> None:
        root = unpacked_path("usr/share/tuxpaint/stamps")
        files = [path for path in sorted(root.rglob("*.png")) if _is_cut_out(path)]
        random.Random(0).shuffle(files)
        squares = [row["image"] for row in photos() if _part_of_photo(row["label"]) == split]
        pairs = [_paste(path, squares) for path in files[part]]
        columns = {"image": [{"bytes": png(picture)} for picture, _ in pairs]}
        columns["mask"] = [{"bytes": png(mask)} for _, mask in pairs]
        Dataset.from_dict(columns, Features(image=Image(), mask=Image())).save_to_disk(directory)

    return load_from_disk(str(made_once(f"pasted-stamps-{split}", make)))


def _part_of_photo(label: int) -> str:
    """Every third photo is for the test part, and every sixth for the validation."""
    return "test" if label % 3 == 2 else "validation" if label % 6 == 1 else "train"


def _is_cut_out(path: Path) -> bool:
    picture = PILImage.open(path)
    if max(picture.size) < _SMALLEST:
        return False
    opaque = (np.asarray(picture.convert("RGBA"))[..., 3] > 127).mean()
    return 0.05 < opaque < 0.95


def _paste(path: Path, squares: list[PILImage.Image]) -> tuple[PILImage.Image, PILImage.Image]:
    choice = random.Random(path.name)
    stamp, square = PILImage.open(path).convert("RGBA"), choice.choice(squares).convert("RGBA")
    stamp = stamp.crop(stamp.getchannel("A").getbbox())
    scale = choice.uniform(0.35, 0.8) * _SIDE / max(stamp.size)
    stamp = stamp.resize([max(1, round(scale * side)) for side in stamp.size], PILImage.Resampling.LANCZOS)
    layer = PILImage.new("RGBA", square.size)
    layer.paste(stamp, [choice.randint(0, outer - inner) for outer, inner in zip(square.size, stamp.size)])
    mask = layer.getchannel("A").point(lambda alpha: int(alpha > 127))
    return PILImage.alpha_composite(square, layer).convert("RGB"), mask
