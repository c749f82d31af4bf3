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

"""Which columns of a data set a task reads, and what their entries say: classes, accepted answers, captions."""

from __future__ import annotations

import hashlib
from typing import Any

import datasets
from datasets import ClassLabel, Dataset


_TEXT_NAMES = ("text", "sentence", "content", "review")
_LABEL_NAMES = ("label", "labels", "class", "category")
_PICTURES = (
    "Pictures come from a folder with one sub-folder per class or a metadata.jsonl, or from a data set with an Image "
    "column (Dataset.cast_column(name, datasets.Image()), then save_to_disk)."
)
_REFERENCES = {
    "mask": ("mask column", ("mask", "annotation", "label", "labels", "segmentation", "segmentation_mask")),
    "question": ("answer column", ("answers", "answer", "multiple_choice_answer", "label")),
    "caption": ("caption column", ("caption", "captions", "text", "texts", "sentences", "sentence", "description")),
    "words": ("column of tags", ("tags", "ner_tags", "pos_tags", "labels", "label")),
}


def find_columns(
    dataset: Dataset, kind: str, inputs: list[str] | None = None, label: str | None = None, labelled: bool = True
) -> list[str]:
    """The columns to read: the inputs, then the label.

    Args:
        kind (`str`):
            `"image"` or `"text"` (one input, or two for pairs of texts) with classes; `"question"` (inputs: a picture
            and a question) with accepted answers; `"mask"` (input: a picture) with a picture of classes; `"caption"`
            (input: a picture) with one or several captions; `"words"` (input: a list of words) with a class for each;
            `"unlabelled"`: pictures, or texts where there are none.
        inputs (`list[str]`, *optional*), label (`str`, *optional*): names, where they are not to be guessed.
        labelled (`bool`, *optional*, defaults to `True`): whether a label is wanted.

    Raises:
        ValueError: if a column does not exist, or cannot be told from the others.
    """
    features = dataset.features
    if kind == "unlabelled":
        chosen = [features.get(column) for column in inputs or features]
        kind, labelled = "image" if any(isinstance(one, datasets.Image) for one in chosen) else "text", False
    for column in [*(inputs or []), *([label] if label else [])]:
        if column not in features:
            raise ValueError(f"column {column!r} does not exist: expected one of {', '.join(features)}.")
    if inputs is None:
        masks = _REFERENCES["mask"][1] if kind == "mask" else ()
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        fitting = {"image": [name for name in images if name not in (label, *masks)]}
        if not fitting["image"] and kind not in ("text", "words"):
            raise ValueError(f"there is no column of pictures: {', '.join(features)}. {_PICTURES}")
        texts = [name for name, feature in features.items() if _is_text(feature) and name != label]
        fitting["text"] = [name for name in texts if name in _TEXT_NAMES] or texts
        fitting["question"] = [name for name in texts if name == "question"]
        fitting["words"] = [name for name, one in features.items() if _is_text(_entry(one)) and name != label]
        wanted = {"question": ["image", "question"], "caption": ["image"], "mask": ["image"]}.get(kind, [kind])
        inputs = [_only(fitting[name], f"{name} column", "--input-columns", features) for name in wanted]
    if kind == "words":
        _check_words(features, inputs)
    elif kind == "text" and any(isinstance(features[name], datasets.Image) for name in inputs):
        raise ValueError(f"column {' '.join(inputs)} holds pictures, and texts are read here. Name a column of texts.")
    elif kind != "text" and not isinstance(features[inputs[0]], datasets.Image):
        raise ValueError(f"column {inputs[0]!r} does not hold pictures. {_PICTURES}")
    if kind == "question" and len(inputs) != 2:
        raise ValueError(f"--input-columns {' '.join(inputs)}: expected the column of pictures, then of questions.")
    if not labelled:
        return inputs
    if label is None and kind in _REFERENCES:
        what, names = _REFERENCES[kind]
        fitting = [name for name in names if name in features and name not in inputs]
        if kind == "mask":
            fitting = [name for name in fitting if isinstance(features[name], datasets.Image)]
        label = _only(fitting[:1], what, "--label-column", features)
    elif label is None:
        if not features.keys() - set(inputs):
            raise ValueError(
                f"these data have no labels, only the column {', '.join(inputs)}. Classification needs some: a folder "
                "with one sub-folder per class, or a column of classes. What needs none: --task feature-extraction, "
                "which compares embeddings, and `tune --min-agreement`, which compares with the dense model."
            )
        classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        fitting = classes or [name for name in features if name in _LABEL_NAMES and name not in inputs]
        label = _only(fitting, "label column", "--label-column", features)
    return [*inputs, label]


def class_indices(dataset: Dataset, column: str, config: Any) -> list[int]:
    """The labels as a model numbers its classes: by name where the model knows the names, else by number.

    Args:
        column (`str`): class labels, names, or numbers.
        config (`PreTrainedConfig`): of the model.

    Raises:
        ValueError: if neither fits.
    """
    feature, values = dataset.features[column], list(dataset[column])
    _refuse_missing(values, column)
    known = {str(label).strip().lower(): int(index) for index, label in config.id2label.items()}
    if isinstance(feature, ClassLabel):
        names = feature.names
        values = [names[value] for value in values]
    elif _is_text(feature):
        names = sorted(set(values))
    else:
        outside = [value for value in values if not 0 <= value < config.num_labels]
        if outside:
            raise ValueError(f"label {outside[0]} of the data is not one of the model's {config.num_labels} classes.")
        return [int(value) for value in values]
    if all(name.strip().lower() in known for name in names):
        return [known[value.strip().lower()] for value in values]
    unnamed = all(label == f"label_{index}" for label, index in known.items())
    if isinstance(feature, ClassLabel) and unnamed and len(names) == config.num_labels:
        return [feature.str2int(value) for value in values]
    raise ValueError(
        f"The classes of the data ({_some(names)}) are not those of the model ({_some(list(config.id2label.values()))}"
        "). Use a model that was trained for them, or rename them in the data; of a checkpoint without a classifier, "
        "evaluate the embeddings (task feature-extraction)."
    )


def texts_of(entry: Any) -> list[str]:
    """The answers or captions in one cell: a text, a list of them, or of dictionaries as in VQAv2."""
    if isinstance(entry, (str, int, float)):
        entry = [entry]
    return [part["answer"] if isinstance(part, dict) else str(part) for part in entry or ()]


def accepted_answers(dataset: Dataset, column: str) -> list[list[str]]:
    """The answers to every question; of class labels the names.

    Raises:
        ValueError: if a question has none.
    """
    feature, entries = dataset.features[column], list(dataset[column])
    if isinstance(feature, ClassLabel):
        entries = [None if entry is None else feature.names[entry] for entry in entries]
    answers = [texts_of(entry) for entry in entries]
    _refuse_missing([texts or None for texts in answers], column)
    return answers


def group_captions(dataset: Dataset, image: str, caption: str) -> tuple[Dataset, list[list[str]]]:
    """Every picture once (column `image`), and its captions, each once, from one row or from several.

    Raises:
        ValueError: if a picture has none.
    """
    files, chosen, captions = dataset.cast_column(image, datasets.Image(decode=False)), {}, []
    for row, (file, entry) in enumerate(zip(files[image], dataset[caption])):
        file = file or {"bytes": None, "path": str(row)}
        key = hashlib.sha256(file["bytes"]).digest() if file["bytes"] else file["path"]
        if key not in chosen:
            chosen[key] = (len(captions), row)
            captions.append({})
        captions[chosen[key][0]].update(dict.fromkeys(texts_of(entry)))
    _refuse_missing([texts or None for texts in captions], caption)
    return dataset.select([row for _, row in chosen.values()]), [list(texts) for texts in captions]


def _refuse_missing(values: list, column: str) -> None:
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise ValueError(
            f"Nothing stands in column {column!r} of {len(missing)} rows (the first is row {missing[0]}): leave such "
            "rows out (datasets.Dataset.filter)."
        )


def _check_words(features: Any, inputs: list[str]) -> None:
    if len(inputs) != 1 or not _is_text(_entry(features[inputs[0]])):
        raise ValueError(
            f"--input-columns {' '.join(inputs)}: expected one column, whose rows are lists of words (a data set that "
            "is split into words, such as those for named entities)."
        )


def _entry(feature: Any) -> Any:
    """What a list holds; `None` of anything else."""
    return getattr(feature, "feature", None)


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _only(fitting: list[str], what: str, option: str, features: Any) -> str:
    if len(fitting) != 1:
        found = f"{', '.join(fitting)} could each be the {what}" if fitting else f"there is no obvious {what}"
        raise ValueError(f"{found}: name it ({option}). The columns: {', '.join(features)}.")
    return fitting[0]


def _some(names: list[str]) -> str:
    return ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")
