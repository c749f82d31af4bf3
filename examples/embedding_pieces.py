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

"""Pieces of a data set, and the model that embeds them: what `embed_dataset.py` is made of."""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, Image

from optimum_pitome.commands.preparing import prepare_images, prepare_texts
from optimum_pitome.commands.tasks import load_task
from optimum_pitome.commands.unlabelled import one_setting
from optimum_pitome.evaluation.columns import find_columns
from optimum_pitome.evaluation.data import load_labelled, take


class Source:
    """The rows of a data set, in pieces: what one file of the result holds. Of a data set at hand there is one shard,
    of a stream one for each of its files.

    Attributes:
        rows: of the data set, with pictures as they lie in their files.
        head (`Dataset`): the first row, with the types of all columns.
        column (`str`), is_image (`bool`): what is embedded.
        prepare (`Callable`): from values to the model's inputs.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.size = args, args.rows_per_file
        where = (args.dataset, args.dataset_config, args.split, args.dataset_revision)
        rows, _ = load_labelled(*where, streaming=args.streaming)
        for name, feature in (rows.features or {}).items():
            if isinstance(feature, Image):  # decoded below, where a broken one can be skipped
                rows = rows.cast_column(name, Image(decode=False))
        self.rows = take(rows, args.max_samples) if isinstance(rows, Dataset) else rows
        self.head = Dataset.from_list(list(self.rows.take(1)), features=rows.features)
        columns = find_columns(self.head, "unlabelled", args.input_columns)
        if len(columns) > 1:
            raise ValueError(
                f"columns {', '.join(columns)}: expected one column to embed. Others can be kept: --keep."
            )
        for name in (name for name in args.keep if name not in self.head.features):
            raise ValueError(f"--keep {name}: the data has no such column, but {', '.join(self.head.features)}.")
        self.column = columns[0]
        self.is_image = isinstance(self.head.features[self.column], Image)
        self.prepare = (prepare_images if self.is_image else prepare_texts)(args)

    def __reduce__(self) -> tuple:
        return Source, (self.args,)  # every process opens the data set itself

    def path(self, shard: int, number: int, rows: int = 1) -> Path:
        # Not every reader of parquet takes a file without rows.
        return self.args.output_dir / ("data" if rows else "empty") / f"{shard:05d}-{number:07d}.parquet"

    def is_missing(self, shard: int, number: int) -> bool:
        return not any(self.path(shard, number, rows).exists() for rows in (1, 0))

    def work(self, process: int = 0, processes: int = 1) -> list[tuple[int, int, int]]:
        """What one of several processes has to do: shards, and of each the first piece, and every how manyth.

        Which process takes a piece depends on nothing that another process does meanwhile."""
        if isinstance(self.rows, Dataset):
            numbers = range(process, -(-len(self.rows) // self.size), processes)
            return [(0, number, 0) for number in numbers if self.is_missing(0, number)]
        shards = self.rows.num_shards
        if shards < processes:  # all read everything
            return [(shard, process, processes) for shard in range(shards)]
        return [(shard, 0, 1) for shard in range(process, shards, processes)]

    def total(self, work: list[tuple[int, int, int]]) -> int | None:
        """Rows in some work; of a stream nobody knows."""
        return min(len(work) * self.size, len(self.rows)) if isinstance(self.rows, Dataset) else None

    def read(self, shard: int, first: int, step: int) -> Iterator[dict[str, Any]]:
        """The pieces that are not there yet."""
        if isinstance(self.rows, Dataset):
            part = range(first * self.size, min((first + 1) * self.size, len(self.rows)))
            yield self.piece(self.rows.select(part), shard, first)
            return
        rows = iter(self.rows.shard(num_shards=self.rows.num_shards, index=shard))
        for number in itertools.count():
            part = list(itertools.islice(rows, self.size))
            if not part:
                return
            if number % step == first and self.is_missing(shard, number):
                yield self.piece(part, shard, number)

    def piece(self, rows: Iterable[dict[str, Any]], shard: int = 0, number: int = 0) -> dict[str, Any]:
        """The model's inputs in batches, and what else stands in the file."""
        found, skipped = [], []
        for row, example in enumerate(rows, start=number * self.size):
            value = example[self.column]
            about = {"shard": shard, "row": row, "name": value.get("path") if self.is_image and value else None}
            try:
                if value is None:
                    raise ValueError("the row is empty")
                if self.is_image:
                    value = self.prepare([Image().decode_example(value)])
            except Exception as error:  # whatever a decoder says about a file that is none of its own
                skipped.append({**about, "reason": f"{type(error).__name__}: {error}"})
                continue
            found.append((value, {**about, **{name: example[name] for name in self.args.keep}}))
        if not self.is_image:  # texts of one length together: less padding
            found.sort(key=lambda each: len(each[0]))
        batches = []
        for start in range(0, len(found), self.args.batch_size):
            values = [value for value, _ in found[start : start + self.args.batch_size]]
            if self.is_image:
                batches.append({name: torch.cat([one[name] for one in values]) for name in values[0]})
            else:
                batches.append(dict(self.prepare(values)))
        about = {"shard": shard, "number": number, "rows": [row for _, row in found]}
        return {**about, "batches": batches, "skipped": skipped}


class Embedder:
    """The model. It writes the file of a piece, and returns how many rows were read for it."""

    def __init__(self, source: Source, device: Any = None):
        args = copy.copy(source.args)
        args.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        config, keyword = one_setting(args)
        self.model, self.judge, _ = load_task(args, config, keyword, source.head)
        self.source = source

    @torch.inference_mode()
    def embed(self, piece: dict[str, Any]) -> int:
        rows, vectors, kept = piece["rows"], [], self.source.head.features.arrow_schema
        for batch in piece["batches"]:
            to = {name: self.model.dtype if value.is_floating_point() else None for name, value in batch.items()}
            inputs = {name: value.to(self.model.device, to[name]) for name, value in batch.items()}
            vectors += self.judge.answer(inputs)
        fields = [("shard", pa.int32()), ("row", pa.int64()), ("name", pa.string())]
        fields += [(name, kept.field(name).type) for name in self.source.args.keep]
        schema = pa.schema([*fields, ("embedding", pa.list_(pa.float32()))], {"skipped": json.dumps(piece["skipped"])})
        rows = [{**row, "embedding": vector.numpy()} for row, vector in zip(rows, vectors)]
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["row"]), schema)
        write(self.source.path(piece["shard"], piece["number"], len(table)), table)
        return len(table) + len(piece["skipped"])


def write(path: Path, content: str | pa.Table) -> None:
    """All of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(content) if isinstance(content, str) else pq.write_table(content, partial)
    os.replace(partial, path)
