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

"""Labelled pictures and texts with a training and a test part, from a package or a hub, for fine-tuning."""

from __future__ import annotations

from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Image, Value, load_dataset
from transformers import AutoImageProcessor


#: What `examples/fetch_assets.sh` fetches.
BUILT_IN_DATA = ("fashion_mnist", "newsgroups", "reuters", "movie_snippets")
BUILT_IN_MODELS = ("dinov2_small", "minilm", "bert_reactions")
SEED = 0


def load_splits(name: str, column_type: type, max_train: int | None, max_test: int | None) -> tuple[Dataset, Dataset]:
    """A training and a test part, cut in a fixed random order.

    Args:
        name (`str`): one of `BUILT_IN_DATA`, a hub id, or a folder that `load_dataset` reads.
        column_type (`type`): what to classify, `datasets.Image` or `datasets.Value`.
        max_train, max_test (`int`, *optional*): at most so many rows.

    Returns:
        Two data sets with columns `input` and `label` (a `ClassLabel`).

    Raises:
        ValueError: if there is no test part, or no column to classify or to predict.
    """
    if name in BUILT_IN_DATA:
        splits = _read_built_in(name)
    else:
        splits = load_dataset(name)
    test_name = next((split for split in ("test", "validation") if split in splits), None)
    if "train" not in splits or test_name is None:
        raise ValueError(
            f"{name} has the splits {', '.join(splits)}; training needs 'train', and 'test' or 'validation'."
        )
    parts = []
    for split, limit in (("train", max_train), (test_name, max_test)):
        part = _standard_columns(splits[split], name, column_type).shuffle(seed=SEED)
        parts.append(part if limit is None else part.select(range(min(limit, len(part)))))
    return parts[0], parts[1]


def save_test_part(test: Dataset, name: str, folder: Path) -> Path:
    """Saves a part from `load_splits` below `folder`, with columns that `optimum-cli pitome evaluate` knows."""
    path = folder / Path(name).name
    column = "image" if isinstance(test.features["input"], Image) else "text"
    test.rename_column("input", column).save_to_disk(path)
    return path


def model_path(name: str) -> str:
    """The folder of one of `BUILT_IN_MODELS`; any other name as it is."""
    if name not in BUILT_IN_MODELS:
        return name
    import real_assets

    return str(getattr(real_assets, name)())


def load_image_processor(path: str, side: int | None):
    """The model's own, for pictures of `side` pixels (`None`: of the size that it is made for)."""
    if side is None:
        return AutoImageProcessor.from_pretrained(path)
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return AutoImageProcessor.from_pretrained(path, **sizes)


def _read_built_in(name: str) -> DatasetDict:
    import real_assets

    if name == "movie_snippets":
        rows = real_assets.movie_snippets().remove_columns("rating")
        return rows.train_test_split(test_size=0.3, seed=SEED, stratify_by_column="label")
    read = real_assets.reuters if name == "reuters" else getattr(real_assets, name)
    return DatasetDict({split: read(split=split) for split in ("train", "test")})


def _standard_columns(dataset: Dataset, name: str, column_type: type) -> Dataset:
    inputs = [
        column
        for column, feature in dataset.features.items()
        if isinstance(feature, column_type) and (column_type is Image or feature == Value("string"))
    ]
    labels = [column for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    if not inputs or not labels:
        kind = "pictures" if column_type is Image else "texts"
        raise ValueError(f"{name} has no column of {kind} beside one of class labels: {dict(dataset.features)}.")
    dataset = dataset.select_columns([inputs[0], labels[0]])
    return dataset.rename_columns(
        {old: new for old, new in ((inputs[0], "input"), (labels[0], "label")) if old != new}
    )
