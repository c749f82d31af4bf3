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

"""One pass over batches: what a model answers, how long its inputs are, and what that costs."""

from __future__ import annotations

import functools
import inspect
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
)

from ..analysis.summary import pitome_summary
from .judges import AnswerJudge, ClassJudge, EmbeddingJudge, Judge, RetrievalJudge
from .pixels import DepthJudge, PixelJudge


_CLASSES_OF_PIXELS = frozenset(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values())
_DEPTHS_OF_PIXELS = frozenset(MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES.values())
_DID_NOT_RUN = (0,)


@dataclass(frozen=True)
class Answers:
    """What came of a pass; in several processes, of all of them.

    Attributes:
        judge ([`~evaluation.judges.Judge`]): who asked.
        answers (`list[list]`): for each run over a batch, what the judge got from all batches.
        references (`list`): the right answers, one per sample; empty where the batches have none.
        lengths (`list[tuple[int, ...]]`): of every sample, the tokens in front of each of the layers watched.
        batch_size (`int`): of the largest batch.
    """

    judge: Judge
    answers: list[list]
    references: list
    lengths: list[tuple[int, ...]]
    batch_size: int


def read_answers(
    model: nn.Module,
    data: Iterable[Mapping[str, Any]],
    judge: Judge | None,
    layers: Iterable[nn.Module],
    run: Callable[[Callable[[], list]], list[list]],
    prepare: Callable[[Mapping[str, Any]], None] = lambda inputs: None,
) -> Answers:
    """Asks `model` about every batch.

    Args:
        model (`torch.nn.Module`), data, judge: as [`evaluate`] takes them.
        layers: those whose inputs' lengths are read.
        run (`Callable`): calls what it gets, once or several times, and returns what that returned each time.
        prepare (`Callable`, *optional*): gets the inputs of the first batch, before anything runs.

    Raises:
        ValueError: if there are no batches, or for what is no batch.
    """
    layers, parameter = list(layers), next(model.parameters())
    answers: list[list] = []
    references, lengths, batch_size = [], [], 0
    for batch in data:
        if not isinstance(batch, Mapping):
            raise ValueError(
                f"A batch is a {type(batch).__name__}: expected a mapping of the model's inputs, as a tokenizer or an "
                "image processor returns it: tokenizer(texts, padding=True, return_tensors='pt')."
            )
        judge = judge or find_judge(model, batch)
        inputs = {
            name: _moved(value, parameter.device, parameter.dtype)
            for name, value in batch.items()
            if name != judge.references
        }
        if not lengths:
            prepare(inputs)
        with _SequenceLengths(layers) as seen:
            outputs = run(lambda: judge.answer(inputs))
        answers = answers or [[] for _ in outputs]
        for known, more in zip(answers, outputs):
            known.extend(more)
        right = batch.get(judge.references, [])
        # Of maps with a label for each pixel, lists of numbers would be large.
        is_map = isinstance(right, torch.Tensor) and right.dim() > 2
        references.extend(
            right.cpu().numpy() if is_map else right.tolist() if isinstance(right, torch.Tensor) else right
        )
        number = len(right) or len(next(value for value in inputs.values() if isinstance(value, torch.Tensor)))
        lengths += seen.of_samples(number, inputs.get("attention_mask") if judge.counts_masks else None)
        batch_size = max(batch_size, number)
    if not lengths:
        raise ValueError("There is nothing to evaluate: there are no batches.")
    *answers, references, lengths = map(of_all_processes, (*answers, references, lengths))
    return Answers(judge, answers, references, lengths, batch_size)


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):  # what else a processor makes for its model
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


def find_judge(model: nn.Module, batch: Mapping[str, Any]) -> Judge:
    """The judge that fits a batch.

    Raises:
        ValueError: if it needs more than that.
    """
    if AnswerJudge.references in batch:
        raise ValueError(
            "These batches hold answers, which a processor has to decode: pass judge=AnswerJudge(model, processor), "
            "from optimum_pitome.evaluation.judges."
        )
    if RetrievalJudge.references in batch:
        return RetrievalJudge(model)
    if type(model).__name__ in _DEPTHS_OF_PIXELS:
        return DepthJudge(model)
    labels = batch.get("labels")
    if type(model).__name__ in _CLASSES_OF_PIXELS or isinstance(labels, torch.Tensor) and labels.dim() == 3:
        return PixelJudge(model)
    # A model with a head takes labels for it.
    if "labels" in batch or "labels" in inspect.signature(model.forward).parameters:
        return ClassJudge(model)
    return EmbeddingJudge(model)


class _SequenceLengths:
    """Reads the number of tokens in front of layers: an image's size alone does not tell it."""

    def __init__(self, layers: Iterable[nn.Module]):
        self._layers = list(layers)
        self._shapes: list[tuple[int, ...]] = [_DID_NOT_RUN] * len(self._layers)

    def __enter__(self) -> _SequenceLengths:
        self._handles = [
            layer.register_forward_pre_hook(functools.partial(self._read, index), with_kwargs=True)
            for index, layer in enumerate(self._layers)
        ]
        return self

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _read(self, index: int, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        tokens = args[0] if args else kwargs[getattr(layer, "tokens_name", "hidden_states")]
        self._shapes[index] = tokens.shape[:-1]

    def of_samples(self, number: int, mask: torch.Tensor | None) -> list[tuple[int, ...]]:
        """Of each of `number` samples the tokens in front of every layer: as many as `mask` says, where it is one of
        these tokens. Where a layer gets those of all samples in one sequence, their mean."""
        found = []
        for shape in self._shapes:
            if mask is not None and shape in (mask.shape, _DID_NOT_RUN):
                found.append(mask.sum(-1).tolist())
            else:
                found.append([shape[1] if len(shape) > 1 else shape[0] // number] * number)
        return list(zip(*found)) or [()] * number


def operations(model: nn.Module, lengths: Counter) -> dict[str, Any]:
    """What a rewritten model costs per sample: the fields of [`Evaluation`] that say so.

    Args:
        lengths (`Counter`): how many samples have these lengths, one for each merging encoder.
    """
    dense = merged = 0.0
    for of_encoders, count in sorted(lengths.items()):  # in one order: sums of floats depend on it
        summary = pitome_summary(model, num_tokens=of_encoders)
        dense += count * summary.gflops_dense
        merged += count * (summary.gflops_merged + summary.gflops_merge_step)
    number = sum(lengths.values())
    medians = [statistics.median_low(of_encoder) for of_encoder in zip(*lengths.elements())]
    left = [encoder.tokens[-1] for encoder in pitome_summary(model, num_tokens=medians).encoders]
    gflops = {"gflops_dense": dense / number, "gflops_merged": merged / number}
    return {**gflops, "num_tokens": medians, "tokens_left": left}


def of_all_processes(values: list) -> list:
    """What the processes of `accelerate launch` have, one after the other."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, values)
    return [value for part in parts for value in part]
