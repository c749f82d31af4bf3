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

"""Labelled texts from a package or a hub, in batches of equal length, and a classifier on mean-pooled features."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from common import UNLABELLED
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset
from torch import nn
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput


#: Name → (module, function, settings; `None` where there are no splits).
BUILT_IN = {
    "newsgroups": ("real_assets", "newsgroups", {}),
    "reuters": ("real_assets", "reuters", {"subset": "r8"}),
    "reuters_r52": ("real_assets", "reuters", {"subset": "r52"}),
    "movie_snippets": ("real_assets", "movie_snippets", None),
    "generated_reactions": ("generated_reactions", "generated_reactions", None),
}
SEED = 0


@dataclass(frozen=True)
class Texts:
    """Columns `text`, for pairs `text_pair`, and `label` (`ClassLabel`), if there are labels. `train` is there where a
    head is trained."""

    test: Dataset
    train: Dataset | None

    @property
    def names(self) -> list[str] | None:
        """Of the classes. `None`: without labels."""
        return self.test.features["label"].names if "label" in self.test.features else None


def load_labelled_texts(
    name: str,
    split: str | None = None,
    columns: list[str] | None = None,
    train_head: bool = False,
    max_train: int | None = None,
    max_samples: int | None = None,
) -> Texts:
    """Reads a data set; where it has one split only and a head is to be trained, a fixed, stratified half trains it.

    Args:
        name (`str`): a key of `BUILT_IN`, a hub id, or a folder that `load_dataset` reads.
        split (`str`, *optional*): the split to evaluate.
        columns (`list[str]`, *optional*): the column of the text, or the two of a pair. Defaults to the first texts.
        train_head (`bool`): whether a training part is wanted.
        max_train, max_samples (`int`, *optional*): cut the parts, in a fixed random order.

    Raises:
        ValueError: if the split or the columns do not exist, or a head is to be trained without labels.
    """
    splits = _read_built_in(name) if name in BUILT_IN else load_dataset(name)
    if split is None:
        split = next((known for known in ("test", "validation") if known in splits), next(iter(splits)))
    if split not in splits:
        raise ValueError(f"--split {split}: {name} has no such split. It has: {', '.join(splits)}.")
    test, train = _standard_columns(splits[split], name, columns, train_head), None
    if train_head and split != "train" and "train" in splits:
        train = _standard_columns(splits["train"], name, columns, train_head)
    elif train_head:
        parts = test.train_test_split(test_size=0.5, seed=SEED, stratify_by_column="label")
        train, test = parts["train"], parts["test"]
    return Texts(_cut(test, max_samples), train if train is None else _cut(train, max_train))


def _read_built_in(name: str) -> DatasetDict:
    module, function, settings = BUILT_IN[name]
    read = getattr(importlib.import_module(module), function)
    if settings is None:
        return DatasetDict({"all": read()})
    return DatasetDict({split: read(split=split, **settings) for split in ("train", "test")})


def _cut(dataset: Dataset, limit: int | None) -> Dataset:
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.shuffle(seed=SEED).select(range(limit))


def _standard_columns(dataset: Dataset, name: str, columns: list[str] | None, labelled: bool) -> Dataset:
    texts = [column for column, feature in dataset.features.items() if feature == Value("string")]
    label = [column for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    columns = texts[:1] if columns is None else columns
    if (labelled and not label) or not columns or not set(columns) <= set(texts) or len(columns) > 2:
        raise ValueError(
            f"{name} has the columns {dict(dataset.features)}. Wanted: one of class labels (to train a head), and one "
            f"or two of texts (--text-columns; found: {', '.join(texts) or 'none'})."
        )
    names = dict(zip([*columns, *label[:1]], ["text", "text_pair"][: len(columns)] + ["label"]))
    dataset = dataset.select_columns(list(names))
    return dataset.rename_columns({old: new for old, new in names.items() if old != new})


def tokenize(dataset: Dataset, tokenizer, max_length: int, labels: list[int] | None) -> Dataset:
    """Token ids and `labels`, the longest text first: the texts of a batch have nearly the same length.

    Args:
        labels (`list[int]`, *optional*): the model's number for each of the data's labels. `None`: there are none.
    """

    def encode(rows):
        encoded = tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=max_length)
        numbers = [labels[label] for label in rows["label"]] if labels else [UNLABELLED] * len(rows["text"])
        return {**encoded, "labels": numbers, "length": [len(ids) for ids in encoded["input_ids"]]}

    dataset = dataset.map(encode, batched=True, remove_columns=dataset.column_names)
    lengths = dataset["length"]
    return dataset.select(sorted(range(len(dataset)), key=lambda row: -lengths[row]))


def collate(tokenizer) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
    """For a `DataLoader`: pads a batch."""

    def collate_rows(rows: list[dict]) -> dict[str, torch.Tensor]:
        inputs = [{name: value for name, value in row.items() if name != "length"} for row in rows]
        return dict(tokenizer.pad(inputs, return_tensors="pt"))

    return collate_rows


class MeanPooledClassifier(nn.Module):
    """An encoder from a hub or folder, the mean over its real tokens at length 1 (as in sentence-transformers), and a
    linear head."""

    def __init__(self, path: str, num_labels: int):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(path, pitome=False)
        self.config = self.encoder.config
        self.head = nn.Linear(self.config.hidden_size, num_labels)

    def forward(self, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        hidden_states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden_states.dtype)
        features = nn.functional.normalize((hidden_states * weights).sum(1))  # the direction of the mean
        return SequenceClassifierOutput(logits=self.head(features))
