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
from collections.abc import Callable
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
from ..evaluation.evaluation import evaluate_answers, evaluate_classifier, evaluate_retrieval
from ..evaluation.judges import check_two_towers
from ..evaluation.questions import encode_questions, rgb
from ..evaluation.results import Evaluation


#: Longest text in tokens, for models that read more.
MAX_LENGTH = 512


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        auto_class: loads the model.
        kind (`str`): of [`~optimum_pitome.evaluation.data.find_columns`].
        run: from model, data set, its columns, the command's arguments and the options of an evaluation to its result.
    """

    auto_class: Any
    kind: str
    run: Callable[..., Evaluation]


def _classify(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace, **options: Any):
    labels = class_indices(dataset, columns[-1], model.config)
    prepare = _prepare_images(args) if args.task == "image-classification" else _prepare_texts(args)
    data = batches(dataset, columns[:-1], {"labels": labels}, args.batch_size, prepare)
    return evaluate_classifier(model, data, **options)


def _answer(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace, **options: Any):
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    processor.tokenizer.padding_side = "left"  # answers follow their questions
    answers = accepted_answers(dataset, columns[-1])

    def prepare(images, questions):
        return encode_questions(processor, images, questions, args.instruction)

    data = batches(dataset, columns[:-1], {"answers": answers}, args.batch_size, prepare)
    return evaluate_answers(model, processor, data, args.max_new_tokens, **options)


def _retrieve(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace, **options: Any):
    check_two_towers(model)
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    pictures, captions = group_captions(dataset, *columns)
    # SigLIP was trained with, and pools at the end of, captions of one length.
    padding = "max_length" if "siglip" in model.config.model_type else True
    reads = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", MAX_LENGTH)
    length = args.max_length or min(reads, MAX_LENGTH)

    def encode(batch):
        texts = [text for of_picture in batch["captions"] for text in of_picture]
        settings = {"padding": padding, "truncation": True, "max_length": length, "return_tensors": "pt"}
        return {**batch, **processor.tokenizer(texts, **settings)}

    data = batches(pictures, columns[:1], {"captions": captions}, args.batch_size, _prepare_images(args))
    return evaluate_retrieval(model, map(encode, data), **options)


TASKS = {
    "image-classification": Task(AutoModelForImageClassification, "image", _classify),
    "text-classification": Task(AutoModelForSequenceClassification, "text", _classify),
    "visual-question-answering": Task(AutoModelForImageTextToText, "question", _answer),
    "image-text-retrieval": Task(AutoModel, "caption", _retrieve),
}


def _prepare_images(args: argparse.Namespace) -> Callable:
    processor = AutoImageProcessor.from_pretrained(args.model, revision=args.revision)
    return lambda images: processor(rgb(images), return_tensors="pt")


def _prepare_texts(args: argparse.Namespace) -> Callable:
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.revision)
    length = args.max_length or min(tokenizer.model_max_length, MAX_LENGTH)
    return lambda *texts: tokenizer(*texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
