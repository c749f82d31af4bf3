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

"""Labelled pictures from a package, a hub or a folder, and a linear head trained on dense features: for examples."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from common import fit_head, fit_held_out_heads, label_numbers
from datasets import ClassLabel, Dataset, Image, load_dataset
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForImageClassification


#: Data sets of `real_assets`: name → (function, settings, share of the pictures that train a head).
BUILT_IN = {"stamps": {"num_categories": 8}, "textiles": {}, "fashion_mnist": {}}
NUM_FOLDS = 5
SEED = 0


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Columns `image` (PIL) and `label` (`ClassLabel`).

    Where a head is to be trained, it is on `train`; or, where that is `None`, one head on the other folds for each
    `fold` of `test`.
    """

    test: Dataset
    train: Dataset | None

    @property
    def names(self) -> list[str]:
        return self.test.features["label"].names


def load_labelled_pictures(name: str, split: str | None, train_head: bool, max_samples: int | None) -> Pictures:
    """Reads a data set. Where it has one split only and a head is to be trained, it comes in stratified folds.

    Args:
        name (`str`): a key of `BUILT_IN`, a hub id, or a folder with one sub-folder per class (`imagefolder`).
        split (`str`, *optional*): the split to evaluate.
        train_head (`bool`): whether a training part is wanted.
        max_samples (`int`, *optional*): cuts the evaluated part, in a fixed random order.

    Raises:
        ValueError: if the split does not exist, there are no columns with pictures and class labels, or a class has
            too few pictures for folds.
    """
    if name in BUILT_IN:
        import real_assets

        splits = {"all": getattr(real_assets, name)(**BUILT_IN[name])}
    elif Path(name).is_dir():
        splits = load_dataset("imagefolder", data_dir=name)
    else:
        splits = load_dataset(name)
    if split is None:
        split = next((known for known in ("test", "validation") if known in splits), next(iter(splits)))
    if split not in splits:
        raise ValueError(f"--split {split}: {name} has no such split. It has: {', '.join(splits)}.")
    test = _standard_columns(splits[split], name)
    train = None
    if train_head and split != "train" and "train" in splits:
        train = _standard_columns(splits["train"], name)
    if max_samples is not None and max_samples < len(test):
        test = test.shuffle(seed=SEED).select(range(max_samples))
    if train_head and train is None:
        from sklearn.model_selection import StratifiedKFold

        smallest = min(Counter(test["label"]).values())
        if smallest < 2:
            raise ValueError(
                f"A class of {name} has one picture only: none is left to test a head that was trained on it."
            )
        folds = StratifiedKFold(min(NUM_FOLDS, smallest), shuffle=True, random_state=SEED)
        fold_of = [0] * len(test)
        for fold, (_, held_out) in enumerate(folds.split(fold_of, test["label"])):
            for index in held_out:
                fold_of[index] = fold
        test = test.add_column("fold", fold_of)
    return Pictures(test, train)


def _standard_columns(dataset: Dataset, name: str) -> Dataset:
    image = [column for column, feature in dataset.features.items() if isinstance(feature, Image)]
    label = [column for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    if not image or not label:
        raise ValueError(
            f"{name} has no column of pictures with one of class labels; its columns: {dict(dataset.features)}. For a "
            "folder, put the pictures of each class into a sub-folder with the name of the class."
        )
    dataset = dataset.select_columns([image[0], label[0]])
    return dataset.rename_columns({old: new for old, new in ((image[0], "image"), (label[0], "label")) if old != new})


def model_labels(pictures: Pictures, config) -> Pictures:
    """Labels as the model numbers them: by name where all names are known to it, else by number.

    Raises:
        ValueError: if the model has fewer classes than the data, under other names.
    """
    numbers = label_numbers(pictures.names, config)
    labels = [numbers[label] for label in pictures.test["label"]]
    return Pictures(pictures.test.add_column("labels", labels), pictures.train)


def collate(processor) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
    """For a `DataLoader`: decodes and normalises a batch."""

    def collate_rows(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")
        columns = {"pixel_values": batch["pixel_values"]}
        columns["labels"] = torch.tensor([row.get("labels", row["label"]) for row in rows])
        if "fold" in rows[0]:
            columns["fold"] = torch.tensor([row["fold"] for row in rows])
        return columns

    return collate_rows


def train_head(directory, processor, pictures: Pictures, accelerator: Accelerator, batch_size: int):
    """An ordinary image classifier: the backbone in `directory`, and a logistic regression on its dense features.

    Works wherever the head is one linear layer named `classifier`. Where the pictures come in folds,
    [`common.HeldOutHeads`] takes its place.
    """
    names = dict(enumerate(pictures.names))
    config = AutoConfig.from_pretrained(directory, num_labels=len(names), id2label=names)
    config.label2id = {name: index for index, name in names.items()}
    model = AutoModelForImageClassification.from_pretrained(
        directory, config=config, pitome=False, ignore_mismatched_sizes=True
    ).eval()
    prepared = accelerator.prepare_model(model, evaluation_mode=True)
    seen = pictures.test if pictures.train is None else pictures.train
    loader = accelerator.prepare(DataLoader(seen, batch_size, collate_fn=collate(processor)))
    if pictures.train is None:
        model.classifier = fit_held_out_heads(prepared, model.classifier, loader, accelerator)
    else:
        fit_head(prepared, model.classifier, loader, accelerator)
    return model
