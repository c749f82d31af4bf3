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

"""Labelled pictures and texts, questions and captions, from a hub or from disk, as batches for an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError
from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError

from ..configuration.checks import leads_nowhere


#: Seed of the choice where not all samples are taken. Folders of pictures come sorted by class.
SEED = 0

#: What a file that cannot be read raises; the decoders of videos and sounds have errors of their own.
UNREADABLE = (OSError, ValueError, SyntaxError, RuntimeError, DecompressionBombError)

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()


def load_labelled(
    name: str,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> tuple[Dataset, str]:
    """Reads one split of a data set.

    Args:
        name (`str`):
            Hub id; folder (one sub-folder of pictures per class, files that `load_dataset` knows, or what
            `save_to_disk` wrote); or a file (csv, tsv, json, jsonl, parquet, txt with a text on every line).
        config (`str`, *optional*): configuration of a data set on the Hub, or of a folder whose README.md has some.
        split (`str`, *optional*): defaults to `test`, `validation`, or the only one.
        revision (`str`, *optional*): revision on the Hub.
        streaming (`bool`, *optional*, defaults to `False`): read it row by row: the split is an `IterableDataset`.

    Returns:
        `(Dataset, str)`: the split, and its name (`""` for a saved `Dataset`, which has none).

    Raises:
        ValueError: if there is no such data set or split, or there are several splits and none was named.
        ConnectionError: if the Hub cannot be asked.
    """
    path = Path(name)
    if config is not None and (path.is_file() or is_saved_dataset(path)):
        raise ValueError(f"configuration {config!r}: {name} is a data set without configurations. Leave it out.")
    if revision is not None and path.exists():
        raise ValueError(f"revision {revision!r}: {name} lies on this machine and has no revisions. Leave it out.")
    if is_saved_dataset(path):
        found = load_from_disk(name)
    elif path.is_file():
        if path.suffix not in _FORMATS:
            raise ValueError(f"{name}: expected a file that ends in {', '.join(_FORMATS)}, a folder, or a Hub id.")
        separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
        found = load_dataset(_FORMATS[path.suffix], data_files=name, streaming=streaming, **separator)
    elif path.is_dir():
        try:
            found = load_dataset(name, config, streaming=streaming)
        except FileNotFoundError as error:  # of datasets: no file of a kind that it knows
            raise ValueError(
                f"{name}: nothing in this folder can be read. Expected one sub-folder of pictures per class, files "
                f"that end in {', '.join(_FORMATS)}, or what save_to_disk wrote."
            ) from error
    elif leads_nowhere(name) or path.suffix in _FORMATS:
        raise ValueError(f"{name}: there is no such file or folder.")
    else:
        try:
            found = load_dataset(name, config, revision=revision, streaming=streaming)
        except (DatasetNotFoundError, ConnectionError) as error:
            kind = ConnectionError if isinstance(error, ConnectionError) else ValueError
            raise kind(f"{name}: there is no such file or folder here; and on the Hub: {error}") from None
    if isinstance(found, Dataset):
        if split is not None:
            raise ValueError(f"split {split!r}: {name} is a single data set without splits.")
        return found, ""
    if split is None:
        split = next((known for known in ("test", "validation") if known in found), None)
        split = next(iter(found)) if split is None and len(found) == 1 else split
    if split not in found:
        what = "there is no test split: name one (--split)" if split is None else f"split {split!r}"
        raise ValueError(f"{what}: expected one of {', '.join(found)}, the splits of {name}.")
    return found[split], split


def take(dataset: Dataset, max_samples: int | None) -> Dataset:
    """At most `max_samples`, chosen at random but always the same ones."""
    if max_samples is None or max_samples >= len(dataset):
        return dataset
    if max_samples < 1:
        raise ValueError(f"max_samples={max_samples}: expected at least 1.")
    return dataset.shuffle(seed=SEED).select(range(max_samples))


def left_out(dataset: Dataset, max_samples: int | None, number: int) -> Dataset:
    """At most `number` of those that [`take`] leaves out; none where it takes all."""
    first = len(dataset) if max_samples is None else min(max_samples, len(dataset))
    last = min(first + number, len(dataset))
    return dataset.shuffle(seed=SEED).select(list(range(first, last)))


@dataclass(frozen=True)
class Batches:
    """Batches of what `prepare` makes of the columns, with the references. They are made anew whenever they are read.

    Attributes:
        dataset (`Dataset`), columns (`list[str]`): what is read.
        references (`dict[str, list]`): one entry per row under each name; class indices become a tensor.
        batch_size (`int`): rows in a batch.
        prepare (`Callable`): from the columns (one list each) to a batch.
        finish (`Callable`, *optional*): from a batch with its references to the batch that comes out.
    """

    dataset: Dataset
    columns: list[str]
    references: dict[str, list]
    batch_size: int
    prepare: Callable[..., dict]
    finish: Callable[[dict], dict] = dict

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = self.dataset.select_columns(self.columns)
        for start in range(0, len(rows), self.batch_size):
            try:
                part = rows[start : start + self.batch_size]
            except UNREADABLE:
                _refuse_broken_pictures(rows, range(start, min(start + self.batch_size, len(rows))))
                raise
            batch = dict(self.prepare(*(part[column] for column in self.columns)))
            for name, values in self.references.items():
                values = values[start : start + self.batch_size]
                batch[name] = torch.tensor(values) if isinstance(values[0], int) else values
            yield self.finish(batch)


def _refuse_broken_pictures(rows: Dataset, numbers: Iterable[int]) -> None:
    """
    Raises:
        ValueError: naming the first picture in these rows that cannot be decoded.
    """
    for column in (name for name, feature in rows.features.items() if isinstance(feature, Image)):
        files = rows.select_columns(column).cast_column(column, Image(decode=False))
        for number in numbers:
            try:
                rows.select_columns(column)[number]
            except UNREADABLE as error:
                name = files[number][column]["path"] or f"the picture in row {number} (column {column!r})"
                reason = "it is no picture" if isinstance(error, UnidentifiedImageError) else error
                raise ValueError(
                    f"{name} cannot be read: {reason}. Remove the file, or leave its row out "
                    "(datasets.Dataset.filter)."
                ) from error
