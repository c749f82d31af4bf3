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

"""Embeddings of a data set of any size by an encoder that merges, as parquet files that a killed run goes on with.

    python examples/embed_dataset.py facebook/dinov2-small --dataset path/to/pictures --flops-ratio 1.8 -o embeddings
    accelerate launch --num_processes 8 examples/embed_dataset.py ... (the same on several machines)
    python examples/embed_dataset.py ... --engine ray                (on this machine, or the cluster of RAY_ADDRESS)

Every file holds the embeddings of --rows-per-file rows, and is there as a whole or not at all. The same command goes
on with the files that are missing. Pictures that cannot be read are skipped, and listed in skipped.jsonl.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedding_pieces
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset
from embedding_pieces import Embedder, Source, write
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from optimum_pitome import evaluate
from optimum_pitome.commands.arguments import fail
from optimum_pitome.commands.options import add_settings
from optimum_pitome.commands.task_options import add_data, add_model
from optimum_pitome.commands.tasks import check_task
from optimum_pitome.evaluation.data import take


class Pieces(IterableDataset):
    """For a `DataLoader`, whose workers read and decode while the model runs."""

    def __init__(self, source: Source, work: list[tuple[int, int, int]]):
        self.source, self.work = source, work

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        for part in self.work if worker is None else self.work[worker.id :: worker.num_workers]:
            yield from self.source.read(*part)


def embed_with_accelerate(args: argparse.Namespace) -> None:
    # Without `cpu=True`, processes on a machine without a GPU would not find one another (accelerate 1.15).
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    with accelerator.main_process_first():
        source = Source(args)
        if accelerator.is_main_process:
            begin(source)
        work = source.work(accelerator.process_index, accelerator.num_processes)
        embedder = Embedder(source, str(accelerator.device))
    pieces = DataLoader(Pieces(source, work), batch_size=None, num_workers=args.workers)
    start, number = time.perf_counter(), 0
    with tqdm(total=source.total(work), unit="row", disable=not accelerator.is_main_process) as bar:
        for piece in pieces:
            rows = embedder.embed(piece)
            number += rows
            bar.update(rows)
    number = int(accelerator.reduce(torch.tensor(number, device=accelerator.device)))
    seconds, processes = time.perf_counter() - start, accelerator.num_processes
    accelerator.end_training()  # the sample is for the main process alone
    if accelerator.is_main_process:
        report(source, embedder, number / seconds, processes)


class RayReader:
    def __init__(self, source: Source):
        self.source = source

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list]]:
        for part in zip(*(batch[name].tolist() for name in ("shard", "first", "step"))):
            for piece in self.source.read(*part):
                yield {"piece": [pickle.dumps(piece)]}


class RayEmbedder(Embedder):
    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        return {"rows": [self.embed(pickle.loads(piece)) for piece in batch["piece"]]}


def embed_with_ray(args: argparse.Namespace) -> None:
    """Ray Data lets actors read pieces, and no more of them than the actors with the model come after."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(embedding_pieces)  # other machines need this package, not these files
    source = Source(args)
    begin(source)
    work = [dict(zip(("shard", "first", "step"), part)) for part in source.work()]
    ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    start, number = time.perf_counter(), 0
    if work:
        actors = {"batch_size": 1, "fn_constructor_args": [source]}
        pieces = ray.data.from_items(work, override_num_blocks=len(work)).map_batches(
            RayReader, compute=ray.data.ActorPoolStrategy(size=max(args.workers, 1)), **actors
        )
        done = pieces.map_batches(
            RayEmbedder, compute=ray.data.ActorPoolStrategy(size=args.actors), num_gpus=args.gpus_per_actor, **actors
        )
        with tqdm(total=source.total(work), unit="row") as bar:
            for row in done.iter_rows():
                number += row["rows"]
                bar.update(row["rows"])
    seconds = time.perf_counter() - start
    ray.shutdown()
    report(source, Embedder(source) if args.report_samples else None, number / seconds, args.actors)


def begin(source: Source) -> None:
    """Makes the folder, or finds that what is there was made by the same command."""
    args = source.args
    own = ("output_dir", "engine", "workers", "actors", "gpus_per_actor", "report_samples", "batch_size")
    settings = {name: value for name, value in vars(args).items() if name not in own and value is not None}
    settings |= {"column": source.column, "rows": len(source.rows) if isinstance(source.rows, Dataset) else None}
    file = args.output_dir / "run.json"
    if file.exists():
        before = json.loads(file.read_text())
        for name in sorted(settings.keys() | before.keys()):
            if settings.get(name) != before.get(name):
                was = f"{name}: {before.get(name)!r}, and not {settings.get(name)!r}"
                raise ValueError(f"{args.output_dir} was begun with {was}. Name another folder, or delete it.")
    write(file, json.dumps(settings, indent=2))


def report(source: Source, embedder: Embedder | None, speed: float, processes: int) -> None:
    """Counts what all files hold, lists what was skipped, and compares dense and merged on a sample."""
    args = source.args
    files = [pq.read_metadata(path) for path in sorted(args.output_dir.glob("*/*.parquet"))]
    skipped = [entry for file in files for entry in json.loads(file.metadata[b"skipped"])]
    write(args.output_dir / "skipped.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in skipped))
    found = {"rows": sum(file.num_rows for file in files), "skipped": len(skipped)}
    found |= {"processes": processes, "rows_per_second": speed}
    print(f"{found['rows']} embeddings in {len(files)} files of {args.output_dir}; {len(skipped)} rows were skipped.")
    print(f"This run: {speed:.1f} rows/s with reading and writing, {processes} process(es) with the model.")
    if args.report_samples and embedder is not None:
        at_random = isinstance(source.rows, Dataset)
        rows = take(source.rows, args.report_samples) if at_random else source.rows.take(args.report_samples)
        table = evaluate(embedder.model, source.piece(rows)["batches"], embedder.judge)
        (compared,) = table
        timing, size = compared.timing, compared.batch_size
        found["sample"] = {
            "samples": compared.num_samples,
            "rows_per_second_dense": size / timing.dense_ms * 1e3,
            "rows_per_second_merged": size / timing.merged_ms * 1e3,
            "speedup": timing.speedup,
            "flops_ratio": compared.flops_ratio,
            "nearest_kept": compared.agreement["agreement"],
            **compared.kept,
        }
        print(f"{table}\nOne by one: report.json, whose keys are those of docs/command_line.md.")
    write(args.output_dir / "report.json", json.dumps(found, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    data = add_data(parser)
    data.add_argument("--streaming", action="store_true", help="read the data row by row, without a copy on disk")
    data.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="columns to write beside the embeddings")
    running = parser.add_argument_group("running")
    running.add_argument("--batch-size", type=int, default=32, help="rows at once in the model (32)")
    running.add_argument("--dtype", default="auto", help="such as bfloat16 (default: that of the checkpoint)")
    running.add_argument("--rows-per-file", type=int, default=256, help="a piece: it is prepared in memory (256)")
    running.add_argument("--workers", type=int, default=0, help="processes that read, for each model (Ray: in all)")
    running.add_argument("--engine", choices=("accelerate", "ray"), default="accelerate")
    running.add_argument("--actors", type=int, default=1, help="of Ray: processes with the model, on all nodes (1)")
    running.add_argument("--gpus-per-actor", type=float, default=0, help="of Ray: 1 on machines with GPUs (0)")
    running.add_argument("--report-samples", type=int, default=256, help="compared dense and merged; 0: none (256)")
    parser.add_argument("-o", "--output-dir", type=Path, required=True, help="a folder that all processes see")
    add_settings(parser)
    args = parser.parse_args()
    args.task, args.label_column = "feature-extraction", None
    try:
        check_task(args)
        if min(args.rows_per_file, args.actors) < 1:
            raise ValueError("--rows-per-file and --actors: expected at least 1.")
        if args.streaming and args.max_samples is not None:
            raise ValueError("--max-samples chooses at random, which a stream cannot: leave one of the two out.")
        (embed_with_ray if args.engine == "ray" else embed_with_accelerate)(args)
    except (ValueError, OSError, ImportError) as error:
        fail(parser, error)


if __name__ == "__main__":
    main()
