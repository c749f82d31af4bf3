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

"""`optimum-cli pitome benchmark`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import logging

from ..analysis.pictures import figure_class
from ..benchmarking.benchmark import Benchmark
from ..benchmarking.combinations import Combination, as_key, combinations
from ..benchmarking.machine import device_of, machine
from ..benchmarking.report import Report
from ..benchmarking.row import Row
from ..configuration.checks import check_picture_size
from ..configuration.config import PiToMeConfig
from ..evaluation.json_lines import JsonLines
from ..modeling.pictures import size_beside
from .arguments import check_model, configured, fits, readers_of_pictures, several_settings
from .results import Results, explained
from .unlabelled import model_class


def run(args: argparse.Namespace, results: Results) -> None:
    if args.rounds < 1 or args.warmup < 0 or min(args.batch_size) < 1:
        raise ValueError("--rounds and --batch-size start at 1, --warmup at 0.")
    if args.output_dir is not None:
        figure_class()  # not after hours
    device = device_of(args.device)
    where = machine(device, args.clock)
    ordered = [one for model in args.models for one in _combinations(args, model)]
    lines = JsonLines(
        None if args.output_dir is None else Path(args.output_dir) / "rows.jsonl", "a row of a benchmark"
    )
    known = {entry["key"] for entry in lines.entries}
    wanted = [one for one in ordered if as_key(one, where) not in known]
    with logging.tqdm(total=len(wanted), desc="rows") as bar:
        builder = _Builder(args)
        bench = Benchmark(
            builder,
            str(device),
            args.rounds,
            args.warmup,
            args.max_seconds,
            args.clock,
            progress=lambda text: bar.set_postfix_str(text),
        )
        for combination in wanted:
            bar.set_description(f"{Path(combination.model).name}, {combination.how}, {combination.batch_size}")
            lines.add({"key": as_key(combination, where), "machine": where, **bench.row(combination).to_dict()})
            bar.update()
    # Of all that lies there, what this machine measured: several commands make one report.
    report = Report([Row.from_dict(entry) for entry in lines.entries if entry["machine"] == where], where)
    if args.output_dir is not None:
        report.save(args.output_dir)
    results.add(report, **report.to_dict())
    if ordered and all(row.error for row in report.rows if row.combination in ordered):
        raise ValueError("No combination could run. The rows say why.")


def _combinations(args: argparse.Namespace, model: str) -> list[Combination]:
    """What the command line asks for, of one model. Its configuration is read, so that what is wrong in it, or in the
    settings, ends the command before anything is measured."""
    check_model(model)
    try:
        config, keyword = configured(_about(args, model), resized=False)
    except OSError as error:  # which of the models cannot be read
        raise OSError(explained(error, model)) from error
    settings = several_settings(args) or [None]
    size = args.image_size or _size_of_pictures(config, keyword)
    # Of several models it is about those that read texts.
    reads_texts = len(args.models) == 1 or hasattr(config.get_text_config(), "vocab_size")
    return list(
        combinations(
            model,
            settings,
            {"sequence_length": args.sequence_length if reads_texts else None, "image_size": size},
            runtime=args.runtime,
            dtype=args.dtype,
            attention=args.attn_implementation,
            quantize=[None if one == "none" else one for one in args.quantize],
            mode=args.mode,
            measure=args.measure,
            batch_size=args.batch_size,
        )
    )


def _size_of_pictures(config: PreTrainedConfig, keyword: dict[str, Any]) -> int | list[int] | None:
    """What a loaded model gets, where that is not the configured size: what the settings say, else the processor."""
    readers = readers_of_pictures(config)
    if not readers:
        return None
    settings = PiToMeConfig.from_value(keyword.get("pitome", getattr(config, "pitome", None)))
    own = None if settings is None else settings.for_part("vision")
    size = (None if own is None else own.image_size) or size_beside(config)
    usual = size is None or check_picture_size("image_size", readers[0].image_size) == size
    return None if usual or not fits(size, readers[0]) else size


def _about(args: argparse.Namespace, model: str, **sizes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "model": model, **sizes})


class _Builder:
    """Makes the model of a combination: with random weights, since the time of a forward does not depend on them, or
    with those of the checkpoint."""

    def __init__(self, args: argparse.Namespace):
        self._args = args

    def __call__(self, combination: Combination) -> torch.nn.Module:
        args = self._args
        config, keyword = configured(
            _about(args, combination.model, image_size=combination.image_size), resized=not args.weights
        )
        keyword["dtype"] = getattr(torch, combination.dtype)
        if combination.attention != "default":
            keyword["attn_implementation"] = combination.attention
        chosen: Any = model_class(config)
        if args.weights:
            source = config.name_or_path or combination.model  # of a recipe its base model
            revision = args.revision if source == combination.model else "main"
            return chosen.from_pretrained(source, revision=revision, config=config, **keyword)
        return (chosen.from_config if chosen is AutoModel else chosen._from_config)(config, **keyword)
