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

"""The tasks of `optimum-cli pitome evaluate`: how each loads a model, reads its data and is scored."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForSemanticSegmentation,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from ..benchmarking.machine import device_of
from ..configuration.config import PiToMeConfig
from ..evaluation.columns import find_columns
from ..evaluation.data import left_out, load_labelled, take
from ..evaluation.judges import TOWERS, AnswerJudge, ClassJudge, EmbeddingJudge, Judge, RetrievalJudge
from ..evaluation.pixels import PixelJudge
from ..export.modules import input_kind
from ..hub.recipe_lookup import base_config_of
from .preparing import answer, classify, embed, retrieve, segment, tag


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        auto_class: loads the model.
        judge (`type[Judge]`): who scores it.
        kind (`str`): of [`~optimum_pitome.evaluation.data.find_columns`].
        prepare: from model, data set, its columns and the command's arguments to the judge and the batches.
    """

    auto_class: Any
    judge: type[Judge]
    kind: str
    prepare: Callable[..., tuple[Judge, Iterable[dict[str, Any]]]]


TASKS = {
    "image-classification": Task(AutoModelForImageClassification, ClassJudge, "image", classify),
    "text-classification": Task(AutoModelForSequenceClassification, ClassJudge, "text", classify),
    "token-classification": Task(AutoModelForTokenClassification, ClassJudge, "words", tag),
    "semantic-segmentation": Task(AutoModelForSemanticSegmentation, PixelJudge, "mask", segment),
    "visual-question-answering": Task(AutoModelForImageTextToText, AnswerJudge, "question", answer),
    "image-text-retrieval": Task(AutoModel, RetrievalJudge, "caption", retrieve),
    "feature-extraction": Task(AutoModel, EmbeddingJudge, "unlabelled", embed),
}


def check_numbers(args: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: for a number of samples, or of tokens of answers, that leaves nothing to do.
    """
    for option in ("batch_size", "max_new_tokens", "max_samples"):
        value = getattr(args, option, None)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} {value}: expected at least 1.")


def check_task(args: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: for options that no task can run with.
    """
    check_numbers(args)
    check_dtype(args.dtype)


def check_dtype(name: str) -> None:
    """
    Raises:
        ValueError: for a dtype that no model is loaded in.
    """
    dtype = getattr(torch, name, None)
    if name != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        hint = " For int8, see --quantize int8 of evaluate, benchmark and export." if name == "int8" else ""
        raise ValueError(f"--dtype {name}: expected auto, float32, bfloat16 or float16.{hint}")


def source_of(args: argparse.Namespace, task: str, split: str | None) -> dict[str, str]:
    """What a card says of the data and of the command. Of paths of this machine, the names are enough."""
    path = Path(args.dataset)
    source = {"task": task, "dataset": path.resolve().stem if path.exists() else args.dataset}
    source |= {"config": args.dataset_config, "split": split}
    source["command"] = shlex.join([Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])])
    return {name: value for name, value in source.items() if value}


def _without_folders(word: str) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def read_data(args: argparse.Namespace) -> tuple[Dataset, str]:
    """The samples of a task, and the name of their split."""
    dataset, split = load_labelled(args.dataset, args.dataset_config, args.split, args.dataset_revision)
    return take(dataset, args.max_samples), split


def read_other_data(args: argparse.Namespace, evaluated: str, number: int) -> Dataset:
    """At most `number` samples that are not evaluated: of `--calibration-split`, or what `--max-samples` leaves out.

    Args:
        evaluated (`str`): the split that [`read_data`] read.

    Raises:
        ValueError: if there are none.
    """
    split = evaluated if args.calibration_split is None else args.calibration_split
    dataset, _ = load_labelled(args.dataset, args.dataset_config, split or None, args.dataset_revision)
    found = left_out(dataset, args.max_samples, number) if split == evaluated else take(dataset, number)
    if not len(found):
        raise ValueError(
            "int8 in OpenVINO is calibrated on samples that are not evaluated, and there are none. Name their split "
            "(--calibration-split train), or leave some out (--max-samples)."
        )
    return found


def columns_of(args: argparse.Namespace, config: PreTrainedConfig, dataset: Dataset) -> list[str]:
    """The columns of `dataset` that a task reads, of the kind that its model reads.

    Args:
        config (`PreTrainedConfig`): of the model, or of a recipe.

    Raises:
        ValueError: if there is no such column.
    """
    kind, config = TASKS[args.task].kind, _of_model(args, config)
    found, is_labelled = _class_of(args, config), kind != "unlabelled"
    if not is_labelled and found is not None and not all(hasattr(found, name) for name in TOWERS):
        kind = input_kind(found, config)
    return find_columns(dataset, kind, args.input_columns, args.label_column, is_labelled)


def load_task(
    args: argparse.Namespace, config: PreTrainedConfig, keyword: dict[str, Any], dataset: Dataset
) -> tuple[nn.Module, Judge, Iterable[dict[str, Any]]]:
    """The model of a task on its device, the judge, and the batches of `dataset`, which can be read again and again.

    Args:
        config (`PreTrainedConfig`): of the model, or of a recipe.
        keyword (`dict`): `pitome=` for loading it.

    Raises:
        ValueError: if the task is for other models, there is no such column, or no such device.
    """
    task = TASKS[args.task]
    columns = columns_of(args, config, dataset)
    chosen = _class_of(args, config)
    if args.task == "feature-extraction" and chosen and "add_pooling_layer" in inspect.signature(chosen).parameters:
        keyword = {**keyword, "add_pooling_layer": False}  # few checkpoints have its weights; nothing here reads it
    device = device_of(args.device)
    with _class_known(args, config):
        model = task.auto_class.from_pretrained(args.model, revision=args.revision, dtype=args.dtype, **keyword)
    model.to(device)
    return model, *task.prepare(model, dataset, columns, args)


def load_more(args: argparse.Namespace, model: nn.Module, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The inputs of other samples than a task was loaded with, as batches without what the judge knows."""
    judge, batches = TASKS[args.task].prepare(model, dataset, columns_of(args, model.config, dataset), args)
    for batch in batches:
        yield {name: value for name, value in batch.items() if name != judge.references}


def _of_model(args: argparse.Namespace, config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the model itself, where `config` is a recipe."""
    return base_config_of(config, args.model) if isinstance(config, PiToMeConfig) else config


def _class_of(args: argparse.Namespace, config: PreTrainedConfig) -> type[nn.Module] | None:
    """The class that the task of a model loads; `None` if there is none, of which the loading says more.

    Raises:
        ValueError: for a head that no checkpoint has: its weights would be random.
    """
    config = _of_model(args, config)
    found = TASKS[args.task].auto_class._model_mapping.get(type(config), None)
    if not isinstance(found, type):
        return None
    saved, bare = (config.architectures or ("",))[0], MODEL_MAPPING_NAMES.values()
    if args.task != "feature-extraction" and saved in bare and found.__name__ not in bare:
        raise ValueError(
            f"{args.model} was saved as a {saved}: the head of a {found.__name__} of it would be random, and its "
            "answers would mean nothing. Name a checkpoint with that head, or --task feature-extraction."
        )
    return found


def empty_model(args: argparse.Namespace) -> nn.Module:
    """The dense model of a task without weights, which settings can be tried on."""
    config = _of_model(args, AutoConfig.from_pretrained(args.model, revision=args.revision))
    with _class_known(args, config), torch.device("meta"):
        return TASKS[args.task].auto_class.from_config(config, pitome=False)


@contextlib.contextmanager
def _class_known(args: argparse.Namespace, config: PreTrainedConfig) -> Iterator[None]:
    """Says it in words where the auto class of a task has no class for a model."""
    try:
        yield
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(
            f"--task {args.task}: {TASKS[args.task].auto_class.__name__} knows no model of type "
            f"{config.model_type!r}. Name the task that {args.model} was made for."
        ) from None
