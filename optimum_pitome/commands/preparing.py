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

"""From a model, a data set and a command's options to a judge and batches, for each of the tasks."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset, Image
from torch import nn
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from ..evaluation.columns import accepted_answers, class_indices, group_captions
from ..evaluation.data import Batches
from ..evaluation.judges import TOWERS, AnswerJudge, ClassJudge, EmbeddingJudge, RetrievalJudge
from ..evaluation.pixels import PixelJudge
from ..evaluation.questions import MAX_LENGTH, encode_captions, encode_questions, rgb
from ..evaluation.words import classes_of_words, encode_words
from ..modeling.rewrite import rewritten_encoders


def classify(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    labels = class_indices(dataset, columns[-1], model.config)
    prepare = prepare_images(args) if args.task == "image-classification" else prepare_texts(args)
    return ClassJudge(model), Batches(dataset, columns[:-1], {"labels": labels}, args.batch_size, prepare)


def tag(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    words, tags = columns
    classes = classes_of_words(dataset, words, tags, model.config)
    tokenizer, length = _tokenizer(args)
    rows = Dataset.from_dict({"words": list(dataset[words]), "classes": classes})
    prepare = functools.partial(encode_words, tokenizer, length=length)
    return ClassJudge(model), Batches(rows, ["words", "classes"], {}, args.batch_size, prepare)


def answer(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    check_tokenizer(processor.tokenizer, args.model)
    judge = AnswerJudge(model, processor, args.max_new_tokens)
    processor.tokenizer.padding_side = "left"  # answers follow their questions
    answers = accepted_answers(dataset, columns[-1])

    def prepare(images, questions):
        return encode_questions(processor, images, questions, args.instruction)

    return judge, Batches(dataset, columns[:-1], {"answers": answers}, args.batch_size, prepare)


def retrieve(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    judge = RetrievalJudge(model)
    processor = AutoProcessor.from_pretrained(args.model, revision=args.revision)
    check_tokenizer(processor.tokenizer, args.model)
    pictures, captions = group_captions(dataset, *columns)
    encode = functools.partial(encode_captions, model, processor, max_length=args.max_length)
    return judge, Batches(pictures, columns[:1], {"captions": captions}, args.batch_size, prepare_images(args), encode)


def embed(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    has_towers = all(hasattr(model, name) for name in TOWERS)
    is_image = isinstance(dataset.features[columns[0]], Image)
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


def segment(model: nn.Module, dataset: Dataset, columns: list[str], args: argparse.Namespace):
    processor = AutoImageProcessor.from_pretrained(args.model, revision=args.revision)

    def prepare(images, masks):
        return processor(rgb(images), segmentation_maps=[np.asarray(mask) for mask in masks], return_tensors="pt")

    return PixelJudge(model), Batches(dataset, columns, {}, args.batch_size, prepare)


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
    check_tokenizer(tokenizer, args.model)
    return tokenizer, args.max_length or min(tokenizer.model_max_length, MAX_LENGTH)


def check_tokenizer(tokenizer: Any, model: str) -> None:
    """
    Raises:
        ValueError: for one that transformers made of the configuration alone, to which no word means anything.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(
            f"{model}: its tokenizer knows no words (of {len(tokenizer)} entries all are special tokens), since no "
            "files of a tokenizer lie beside the weights. Put that of the model which they were made from there: "
            "AutoTokenizer.from_pretrained(that model).save_pretrained(folder)."
        )
