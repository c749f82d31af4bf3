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

"""A rewritten model against itself without merging, on labelled data: classes, answers, retrieval."""

from __future__ import annotations

import functools
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..analysis.summary import pitome_summary
from ..analysis.timing import DenseMergedTimer
from ..modeling.rewrite import rewritten_encoders
from .judges import AnswerJudge, ClassJudge, Judge, RetrievalJudge
from .results import Evaluation, remember


logger = logging.get_logger(__name__)


def evaluate_classifier(model: nn.Module, batches: Iterable[Mapping[str, Any]], **options: Any) -> Evaluation:
    """Runs a rewritten classifier dense and merged over labelled batches: accuracy.

    The model's card carries the result from then on, until its weights or its settings change.

    Args:
        model (`torch.nn.Module`): a rewritten model whose output has `logits` of shape `(batch, classes)`.
        batches: the model's inputs and `labels`, class indices of shape `(batch,)`; moved to the model's device.
        total (`int`, *optional*): number of batches, for the progress bar.
        warmup (`int`, *optional*, defaults to 1): rounds on the first batch that are not timed.
        source (`dict[str, str]`, *optional*): kept in the result: `task`, `dataset`, `config`, `split`, `command`.

    Raises:
        ValueError: if the model is dense, or there are no batches.
    """
    return _evaluate(model, batches, ClassJudge(model), **options)


def evaluate_answers(
    model: nn.Module, processor: Any, batches: Iterable[Mapping[str, Any]], max_new_tokens: int = 16, **options: Any
) -> Evaluation:
    """Runs a rewritten vision-language model dense and merged over questions about pictures: VQA accuracy.

    Args:
        model (`torch.nn.Module`): a rewritten model that generates, such as LLaVA.
        processor: decodes what the model generates.
        batches:
            the model's inputs, padded on the left, and `answers`: the accepted answers of each question, a list of
            lists of strings.
        max_new_tokens (`int`, *optional*, defaults to 16): longest answer. Decoding is greedy.
        options: as those of [`evaluate_classifier`]; the time is that of `generate`.

    Raises:
        ValueError: if the model is dense or does not generate, there are no batches, or a question has no answers.
    """
    return _evaluate(model, batches, AnswerJudge(model, processor, max_new_tokens), **options)


def evaluate_retrieval(model: nn.Module, batches: Iterable[Mapping[str, Any]], **options: Any) -> Evaluation:
    """Runs a rewritten model of two towers dense and merged over captioned pictures: recall at 1, 5 and 10, both ways.

    Args:
        model (`torch.nn.Module`):
            a rewritten model whose output has `image_embeds` and `text_embeds` of shapes `(pictures, dim)` and
            `(captions, dim)`: CLIP, SigLIP, `VisionTextDualEncoderModel`.
        batches:
            the model's inputs for some pictures and all their captions, and `captions`: the texts themselves, a list
            of lists, one per picture. A text that belongs to several pictures is right for all of them.
        options: as those of [`evaluate_classifier`].

    Raises:
        ValueError: if the model is dense or has no such output, or there are no batches.
    """
    return _evaluate(model, batches, RetrievalJudge(model), **options)


def _evaluate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    judge: Judge,
    total: int | None = None,
    warmup: int = 1,
    source: Mapping[str, str] | None = None,
) -> Evaluation:
    encoders = rewritten_encoders(model)
    if not encoders:
        raise ValueError(
            f"This {type(model).__name__} is dense: there is nothing to compare. Rewrite it first: "
            "apply_pitome(model, 0.9), or from_pretrained(..., pitome=0.9)."
        )
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    timer, lengths, batch_size, was_training = DenseMergedTimer(model, warmup), Counter(), 0, model.training
    model.eval()
    try:
        for batch in logging.tqdm(batches, total=total, desc="Evaluating dense and merged"):
            inputs = {name: _to(tensor, device, dtype) for name, tensor in batch.items() if name != judge.references}
            references = batch[judge.references]
            with _SequenceLengths(encoders) as seen:
                outputs = timer.run(lambda: judge.answer(inputs))
            judge.add(*outputs, references)
            # In batches of texts each has the length of its own.
            mask = inputs.get("attention_mask") if judge.counts_masks else None
            own = [[length] * len(encoders) for length in mask.sum(dim=-1).tolist()] if mask is not None else None
            lengths.update(map(tuple, own or [seen.lengths] * len(references)))
            batch_size = max(batch_size, len(references))
    finally:
        model.train(was_training)
    if not lengths:
        raise ValueError("There is nothing to evaluate: `batches` is empty.")
    dense, merged, agreement = judge.scores()
    evaluation = Evaluation(
        dense=dense,
        merged=merged,
        agreement=agreement,
        **_operations(model, lengths),
        timing=timer.result(),
        num_samples=sum(lengths.values()),
        num_tokens=[statistics.median_low(of_encoder) for of_encoder in zip(*lengths.elements())],
        batch_size=batch_size,
        hardware=_hardware(device, dtype),
        source=dict(source or {}),
    )
    remember(model, evaluation)
    return evaluation


class _SequenceLengths:
    """Reads the number of tokens in front of each encoder's first layer: an image's size alone does not tell it."""

    def __init__(self, encoders: list[nn.Module]):
        self._layers = [encoder.pitome.architecture.find_layers(encoder)[0] for encoder in encoders]
        self.lengths = [0] * len(encoders)

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
        self.lengths[index] = (args[0] if args else kwargs["hidden_states"]).shape[1]


def _operations(model: nn.Module, lengths: Counter) -> dict[str, float]:
    dense = merged = 0.0
    for of_encoders, count in lengths.items():
        summary = pitome_summary(model, num_tokens=of_encoders)
        dense += count * summary.gflops_dense
        merged += count * (summary.gflops_merged + summary.gflops_merge_step)
    number = sum(lengths.values())
    return {"gflops_dense": dense / number, "gflops_merged": merged / number}


def _to(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):  # what else a processor makes for its model
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


def _hardware(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        where = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
    else:
        where = device.type
    return f"{where}, {str(dtype).removeprefix('torch.')}"
