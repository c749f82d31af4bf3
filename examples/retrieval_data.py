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

"""Pictures with captions, from a package, a hub or a folder: for examples/image_text_retrieval.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk


SEED = 0
#: Share of the captioned stamps that trains the dual encoder's projections.
TRAIN_SHARE = 0.7
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "sentences", "sentence", "description", "raw")


@dataclasses.dataclass(frozen=True)
class CaptionedPictures:
    """
    Attributes:
        pictures: column `image` (PIL).
        captions: every caption once.
        captions_of: for each picture, the indices of its captions.
        pictures_of: for each caption, the indices of its pictures: equal captions are right for all of them.
    """

    pictures: Dataset
    captions: list[str]
    captions_of: list[list[int]]
    pictures_of: list[list[int]]


def load_captioned_pictures(
    name: str, split: str | None = None, caption_column: str | None = None, max_pictures: int | None = None
) -> CaptionedPictures:
    """Reads a data set with a column of pictures and one of captions (a text, or a list of texts per picture).

    Args:
        name (`str`): `stamps`, a hub id, or a folder (`save_to_disk`, or `imagefolder` with a metadata file).
        split (`str`, *optional*): for stamps `train` or `test` (the default): a fixed, seeded partition.
        caption_column (`str`, *optional*): defaults to the first of `CAPTION_COLUMNS` that is there.
        max_pictures (`int`, *optional*): cuts the data set, in a fixed random order.

    Raises:
        ValueError: if the split or the columns are not there.
    """
    if name == "stamps":
        splits = captioned_stamps()
    elif Path(name, "dataset_dict.json").exists() or Path(name, "dataset_info.json").exists():
        splits = load_from_disk(name)
    elif Path(name).is_dir():
        splits = load_dataset("imagefolder", data_dir=name)
    else:
        splits = load_dataset(name)
    if isinstance(splits, Dataset):
        splits = DatasetDict({"test": splits})
    split = split or next((known for known in ("test", "validation") if known in splits), next(iter(splits)))
    if split not in splits:
        raise ValueError(f"--split {split}: {name} has no such split. It has: {', '.join(splits)}.")
    dataset = splits[split]
    image_column, caption_column = _columns(dataset.features, name, caption_column)
    if max_pictures is not None and max_pictures < len(dataset):
        dataset = dataset.shuffle(seed=SEED).select(range(max_pictures))
    number: dict[str, int] = {}
    captions_of = []
    for entry in dataset[caption_column]:
        texts = [entry] if isinstance(entry, str) else list(entry)
        captions_of.append([number.setdefault(text, len(number)) for text in dict.fromkeys(texts)])
    pictures_of: list[list[int]] = [[] for _ in number]
    for picture, captions in enumerate(captions_of):
        for caption in captions:
            pictures_of[caption].append(picture)
    pictures = dataset.select_columns([image_column])
    if image_column != "image":
        pictures = pictures.rename_column(image_column, "image")
    return CaptionedPictures(pictures, list(number), captions_of, pictures_of)


def captioned_stamps() -> DatasetDict:
    """A fixed partition of the packaged stamps: `image` and `caption`."""
    import real_assets

    splits = real_assets.stamps().train_test_split(train_size=TRAIN_SHARE, seed=SEED, stratify_by_column="label")
    return splits.remove_columns("label")


def _columns(features: Features, name: str, caption_column: str | None) -> tuple[str, str]:
    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    known = [column for column in CAPTION_COLUMNS if column in features]
    if caption_column is None and not known:
        known = [column for column, feature in features.items() if feature == Value("string")]
    caption_column = caption_column or next(iter(known), None)
    if not images or caption_column not in features:
        raise ValueError(
            f"{name} has no column of pictures with one of captions; its columns: {', '.join(features)}. Name the "
            "captions with --caption-column (a text, or a list of texts per picture)."
        )
    return images[0], caption_column
