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
import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForSemanticSegmentation,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from ..configuration.config import PiToMeConfig
from ..evaluation.data import (
    Batches,
    accepted_answers,
    class_indices,
    find_columns,
    group_captions,
    left_out,
    load_labelled,
    take,
)
from ..evaluation.judges import TOWERS, AnswerJudge, ClassJudge, EmbeddingJudge, Judge, RetrievalJudge
from ..evaluation.pixels import PixelJudge
from ..evaluation.questions import MAX_LENGTH, encode_captions, encode_questions, rgb
from ..evaluation.words import classes_of_words, encode_words
from ..export.modules import input_kind
from ..hub.recipe_lookup import base_model_of
from ..modeling.rewrite import rewritten_encoders


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


def _classify(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    labels = class_indices(dataset, columns[-1], model.config)
    prepare = prepare_images(args) if args.task == "image-classification" else prepare_texts(args)
    return ClassJudge(model), Batches(dataset, columns[:-1], {"labels": labels}, args.batch_size, prepare)


def _tag(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    words, tags = columns
    classes = classes_of_words(dataset, words, tags, model.config)
    tokenizer, length = _tokenizer(args)
    rows = Dataset.from_dict({"words": list(dataset[words]), "classes": classes})
    prepare = functools.partial(encode_words, tokenizer, length=length)
    return ClassJudge(model), Batches(rows, ["words", "classes"], {}, args.batch_size, prepare)


def _answer(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    judge = AnswerJudge(model, processor, args.max_new_tokens)
    processor.tokenizer.padding_side = "left"  # answers follow their questions
    answers = accepted_answers(dataset, columns[-1])

    def prepare(images, questions):
        return encode_questions(processor, images, questions, args.instruction)

    return judge, Batches(dataset, columns[:-1], {"answers": answers}, args.batch_size, prepare)


def _retrieve(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    judge = RetrievalJudge(model)
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    pictures, captions = group_captions(dataset, *columns)
    encode = functools.partial(encode_captions, model, processor, max_length=args.max_length)
    return judge, Batches(pictures, columns[:1], {"captions": captions}, args.batch_size, prepare_images(args), encode)


def _embed(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    has_towers = all(hasattr(model, name) for name in TOWERS)
    is_image = isinstance(dataset.features[columns[0]], Image) if has_towers else input_kind(model) != "text"
    batches = Batches(dataset, columns, {}, args.batch_size, (prepare_images if is_image else prepare_texts)(args))
    if not has_towers:
        return EmbeddingJudge(model), batches
    # The tower of a CLIP or a SigLIP that reads these inputs; what it returns is pooled and projected.
    part, tower = ("vision", TOWERS[0]) if is_image else ("text", TOWERS[1])
    merging = {encoder.pitome.architecture.part for encoder in rewritten_encoders(model)}
    if merging and part not in merging:
        raise ValueError(
            f"column {columns[0]!r} is for the {part} tower of this {type(model).__name__}, which stays dense at "
            f"these settings; what merges is {', '.join(sorted(merging))}. Name another column or --parts."
        )
    return EmbeddingJudge(getattr(model, tower), lambda output, _: getattr(output, "pooler_output", output)), batches


def _segment(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    processor = AutoImageProcessor.from_pretrained(args.model, revision=args.revision)

    def prepare(images, masks):
        return processor(rgb(images), segmentation_maps=[np.asarray(mask) for mask in masks], return_tensors="pt")

    return PixelJudge(model), Batches(dataset, columns, {}, args.batch_size, prepare)


TASKS = {
    "image-classification": Task(AutoModelForImageClassification, ClassJudge, "image", _classify),
    "text-classification": Task(AutoModelForSequenceClassification, ClassJudge, "text", _classify),
    "token-classification": Task(AutoModelForTokenClassification, ClassJudge, "words", _tag),
    "semantic-segmentation": Task(AutoModelForSemanticSegmentation, PixelJudge, "mask", _segment),
    "visual-question-answering": Task(AutoModelForImageTextToText, AnswerJudge, "question", _answer),
    "image-text-retrieval": Task(AutoModel, RetrievalJudge, "caption", _retrieve),
    "feature-extraction": Task(AutoModel, EmbeddingJudge, "unlabelled", _embed),
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
    if args.dtype != "auto" and not isinstance(getattr(torch, args.dtype, None), torch.dtype):
        raise ValueError(f"--dtype {args.dtype}: expected auto, float32, bfloat16 or float16.")


def source_of(args: argparse.Namespace, task: str, split: str | None) -> dict[str, str]:
    """What a card says of the data and of the command. A path of this machine says nothing to others."""
    path = Path(args.dataset)
    source = {"task": task, "dataset": path.resolve().stem if path.exists() else args.dataset}
    source |= {"config": args.dataset_config, "split": split}
    source["command"] = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {name: value for name, value in source.items() if value}


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
    columns = find_columns(dataset, task.kind, args.input_columns, args.label_column)
    chosen = _class_of(args, config)
    if args.task == "feature-extraction" and chosen and "add_pooling_layer" in inspect.signature(chosen).parameters:
        keyword = {**keyword, "add_pooling_layer": False}  # few checkpoints have its weights; nothing here reads it
    with _class_known(args, config):
        model = task.auto_class.from_pretrained(args.model, revision=args.revision, dtype=args.dtype, **keyword)
    try:
        model.to(args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {error}") from None
    return model, *task.prepare(model, dataset, columns, args)


def load_more(args: argparse.Namespace, model: nn.Module, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The inputs of other samples than a task was loaded with, as batches without what the judge knows."""
    task = TASKS[args.task]
    columns = find_columns(dataset, task.kind, args.input_columns, args.label_column)
    judge, batches = task.prepare(model, dataset, columns, args)
    for batch in batches:
        yield {name: value for name, value in batch.items() if name != judge.references}


def _class_of(args: argparse.Namespace, config: PreTrainedConfig) -> type[nn.Module] | None:
    """The class that the task of a model loads; `None` if there is none, of which the loading says more.

    Raises:
        ValueError: for a head that no checkpoint has: its weights would be random.
    """
    if isinstance(config, PiToMeConfig):
        config = AutoConfig.from_pretrained(base_model_of(config, args.model))
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
    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    if isinstance(config, PiToMeConfig):
        config = AutoConfig.from_pretrained(base_model_of(config, args.model))
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


def prepare_images(args: argparse.Namespace) -> Callable:
    """From a list of pictures to inputs, as the command's options say."""
    processor = AutoImageProcessor.from_pretrained(args.model, revision=args.revision)
    return lambda images: processor(rgb(images), return_tensors="pt")


def prepare_texts(args: argparse.Namespace) -> Callable:
    """From one or two lists of texts to padded inputs, as the command's options say."""
    tokenizer, length = _tokenizer(args)
    return lambda *texts: tokenizer(*texts, truncation=True, max_length=length, padding=True, return_tensors="pt")


def _tokenizer(args: argparse.Namespace) -> tuple[Any, int]:
    """The model's, and the longest text in tokens."""
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.revision)
    return tokenizer, args.max_length or min(tokenizer.model_max_length, MAX_LENGTH)
