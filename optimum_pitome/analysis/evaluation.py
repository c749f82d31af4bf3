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

"""[`evaluate_classifier`]: a rewritten classifier against itself without merging, on labelled data."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..metrics import Accuracy, Agreement
from ..modeling.rewrite import rewritten_encoders
from .results import Evaluation, remember
from .summary import pitome_summary
from .timing import DenseMergedTimer


logger = logging.get_logger(__name__)


def evaluate_classifier(
    model: nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    total: int | None = None,
    warmup: int = 1,
    source: Mapping[str, str] | None = None,
) -> Evaluation:
    """Runs a rewritten classifier dense and merged over labelled batches.

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
    encoders = rewritten_encoders(model)
    if not encoders:
        raise ValueError(
            f"This {type(model).__name__} is dense: there is nothing to compare. Rewrite it first: "
            "apply_pitome(model, 0.9), or from_pretrained(..., pitome=0.9)."
        )
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    metrics = {"dense": Accuracy(), "merged": Accuracy(), "agreement": Agreement()}
    timer, lengths, batch_size, was_training = DenseMergedTimer(model, warmup), Counter(), 0, model.training
    first_layer = encoders[0].pitome.architecture.find_layers(encoders[0])[0]
    model.eval()
    try:
        for batch in logging.tqdm(batches, total=total, desc="Evaluating dense and merged"):
            inputs = {name: _to(tensor, device, dtype) for name, tensor in batch.items() if name != "labels"}
            labels = batch["labels"].tolist()
            with _SequenceLength(first_layer) as seen:
                outputs = timer.run(lambda: model(**inputs).logits)
            dense, merged = (logits.argmax(dim=-1).tolist() for logits in outputs)
            metrics["dense"].add_batch(predictions=dense, references=labels)
            metrics["merged"].add_batch(predictions=merged, references=labels)
            metrics["agreement"].add_batch(predictions=merged, references=dense)
            mask = inputs.get("attention_mask")
            lengths.update(mask.sum(dim=-1).tolist() if mask is not None else [seen.length] * len(labels))
            batch_size = max(batch_size, len(labels))
    finally:
        model.train(was_training)
    if not lengths:
        raise ValueError("There is nothing to evaluate: `batches` is empty.")
    evaluation = Evaluation(
        **{name: metric.compute() for name, metric in metrics.items()},
        **_operations(model, lengths),
        timing=timer.result(),
        num_samples=sum(lengths.values()),
        num_tokens=statistics.median_low(lengths.elements()),
        batch_size=batch_size,
        hardware=_hardware(device, dtype),
        source=dict(source or {}),
    )
    remember(model, evaluation)
    return evaluation


class _SequenceLength:
    """Reads the number of tokens in front of a layer: an image's size alone does not tell it."""

    def __init__(self, layer: nn.Module):
        self._layer, self.length = layer, 0

    def __enter__(self) -> _SequenceLength:
        self._handle = self._layer.register_forward_pre_hook(self._read, with_kwargs=True)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handle.remove()

    def _read(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        self.length = (args[0] if args else kwargs["hidden_states"]).shape[1]


def _operations(model: nn.Module, lengths: Counter) -> dict[str, float]:
    dense = merged = 0.0
    for length, count in lengths.items():
        summary = pitome_summary(model, num_tokens=length)
        dense += count * summary.gflops_dense
        merged += count * (summary.gflops_merged + summary.gflops_merge_step)
    number = sum(lengths.values())
    return {"gflops_dense": dense / number, "gflops_merged": merged / number}


def _to(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _hardware(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        where = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
    else:
        where = device.type
    return f"{where}, {str(dtype).removeprefix('torch.')}"
