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

"""Words with a class each, such as named entities, as a model with a head for tokens reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from datasets import Dataset, Features

from .columns import class_indices
from .judges import IGNORED


def classes_of_words(dataset: Dataset, words: str, column: str, config: Any) -> list[list[int]]:
    """The classes of all words, as a model numbers them: see [`~evaluation.columns.class_indices`].

    Args:
        words (`str`): the column of words.
        column (`str`): that of their classes: lists of class labels, names, or numbers.
        config (`PreTrainedConfig`): of the model.

    Raises:
        ValueError: if the classes are not those of the model, or a row has more or fewer of them than words.
    """
    feature = getattr(dataset.features[column], "feature", None)
    if feature is None:
        raise ValueError(
            f"column {column!r} does not hold lists: expected a class for every word of {words!r}. Name another "
            "(--label-column)."
        )
    rows = [tags or [] for tags in dataset[column]]
    for row, (text, tags) in enumerate(zip(dataset[words], rows)):
        if len(text or []) != len(tags):
            raise ValueError(
                f"Row {row} has {len(text or [])} words ({words}) and {len(tags)} classes ({column}): a class for "
                "every word is expected."
            )
    flat = Dataset.from_dict({column: list(chain.from_iterable(rows))}, Features({column: feature}))
    indices = iter(class_indices(flat, column, config))
    return [[next(indices) for _ in tags] for tags in rows]


def encode_words(tokenizer: Any, texts: Sequence[Sequence[str]], classes: Sequence[Sequence[int]], length: int) -> Any:
    """A padded batch of texts that are split into words, with `labels`: the class of a word at its first token, and
    `IGNORED` at all other tokens.

    Args:
        tokenizer: a fast one, of the model.
        texts: the words of each text.
        classes: the class of each of them.
        length (`int`): longest text in tokens; what is longer is cut off.

    Returns:
        `BatchEncoding`: tensors of shape `(texts, tokens)` under the names of the model's arguments.
    """
    batch = tokenizer(
        list(map(list, texts)),
        is_split_into_words=True,
        truncation=True,
        max_length=length,
        padding=True,
        return_tensors="pt",
    )
    labels = batch["input_ids"].new_full(batch["input_ids"].shape, IGNORED)
    for row, of_words in enumerate(classes):
        before = None
        for place, word in enumerate(batch.word_ids(row)):
            if word is not None and word != before:
                labels[row, place] = of_words[word]
            before = word
    batch["labels"] = labels
    return batch
