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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)

from ..evaluation.data import accepted_answers, batches, class_indices, group_captions
from ..evaluation.judges import AnswerJudge, ClassJudge, EmbeddingJudge, Judge, RetrievalJudge
from ..evaluation.questions import MAX_LENGTH, encode_captions, encode_questions, rgb


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        auto_class: loads the model.
        kind (`str`): of [`~optimum_pitome.evaluation.data.find_columns`].
        prepare: from model, data set, its columns and the command's arguments to the judge and the batches.
    """

    auto_class: Any
    kind: str
    prepare: Callable[..., tuple[Judge, Iterable[dict[str, Any]]]]


def _classify(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    labels = class_indices(dataset, columns[-1], model.config)
    prepare = prepare_images(args) if args.task == "image-classification" else prepare_texts(args)
    return ClassJudge(model), batches(dataset, columns[:-1], {"labels": labels}, args.batch_size, prepare)


def _answer(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    judge = AnswerJudge(model, processor, args.max_new_tokens)
    processor.tokenizer.padding_side = "left"  # answers follow their questions
    answers = accepted_answers(dataset, columns[-1])

    def prepare(images, questions):
        return encode_questions(processor, images, questions, args.instruction)

    return judge, batches(dataset, columns[:-1], {"answers": answers}, args.batch_size, prepare)


def _retrieve(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    judge = RetrievalJudge(model)
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    pictures, captions = group_captions(dataset, *columns)
    data = batches(pictures, columns[:1], {"captions": captions}, args.batch_size, prepare_images(args))
    return judge, (encode_captions(model, processor, batch, args.max_length) for batch in data)


def _embed(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    prepare = prepare_texts(args) if model.main_input_name == "input_ids" else prepare_images(args)
    return EmbeddingJudge(model), batches(dataset, columns, {}, args.batch_size, prepare)


TASKS = {
    "image-classification": Task(AutoModelForImageClassification, "image", _classify),
    "text-classification": Task(AutoModelForSequenceClassification, "text", _classify),
    "visual-question-answering": Task(AutoModelForImageTextToText, "question", _answer),
    "image-text-retrieval": Task(AutoModel, "caption", _retrieve),
    "feature-extraction": Task(AutoModel, "unlabelled", _embed),
}


def prepare_images(args: argparse.Namespace) -> Callable:
    """From a list of pictures to inputs, as the command's options say."""
    processor = AutoImageProcessor.from_pretrained(args.model, revision=args.revision)
    return lambda images: processor(rgb(images), return_tensors="pt")


def prepare_texts(args: argparse.Namespace) -> Callable:
    """From one or two lists of texts to padded inputs, as the command's options say."""
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.revision)
    length = args.max_length or min(tokenizer.model_max_length, MAX_LENGTH)
    return lambda *texts: tokenizer(*texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
