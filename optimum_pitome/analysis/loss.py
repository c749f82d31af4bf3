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

"""How far a merged model is from its dense self on inputs without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.utils import logging

from ..apply import pitome_disabled


#: Of (merged outputs, dense outputs, inputs), one number per sample.
Distance = Callable[[Any, Any, Mapping[str, Any]], torch.Tensor]


#: Seconds after which a pass over the inputs has a bar of its own.
_LONG = 3.0


class Samples:
    """Inputs of a model, and what its dense self makes of them.

    Args:
        model (`torch.nn.Module`): a model that [`apply_pitome`] takes; it should be in `eval()` mode.
        batches (`Iterable[Mapping]`): inputs of `model` as batches (with the batch dimension).
        distance (`Callable`, *optional*): see [`Distance`]; by default that of [`~Samples.losses`].

    Raises:
        ValueError: if there is no batch, or one is no mapping.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Mapping[str, Any]], distance: Distance | None = None):
        self.model, self.batches, self.distance = model, checked(batches), distance
        #: Whether outputs are compared by their logits.
        self.classifies = False
        with pitome_disabled(model):
            self.dense = self._run()
        self._centres = [] if self._compares_outputs else [feature.mean(dim=0) for feature in _joined(self.dense)]

    def __len__(self) -> int:
        return sum(len(next(iter(batch.values()))) for batch in self.batches)

    @property
    def _compares_outputs(self) -> bool:
        return self.classifies or self.distance is not None

    @torch.no_grad()
    def _run(self) -> list[Any]:
        """Of every batch what is compared: hidden states of a thousand pictures would fill the memory."""
        # Next to the bar of a search, one that comes and goes with every setting only flickers.
        bar = logging.tqdm(self.batches, leave=False, disable=None, delay=_LONG, desc="inputs")
        return [self._read(batch) for batch in bar]

    def _read(self, batch: Mapping[str, Any]) -> Any:
        output = self.model(**batch)
        if self.distance is not None:
            return output
        self.classifies = output.get("logits") is not None
        return output.logits if self.classifies else first_and_mean(output, batch)

    def fingerprint(self) -> str:
        """What tells these samples, and this model, from others. Numbers are rounded: they differ from run to run in
        the last digits."""
        found = []
        for kept in self.dense:
            tensors = (
                [kept] if isinstance(kept, torch.Tensor) else kept if isinstance(kept, tuple) else kept.to_tuple()
            )
            tensors = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
            found += [f"{tuple(tensor.shape)} {tensor.float().abs().mean().item():.3e}" for tensor in tensors]
        return " ".join(found)

    def losses(self) -> torch.Tensor:
        """How far the model, as it is set, is from the dense one, `(num_samples,)` float32: of logits the
        Kullback-Leibler divergence; else `1 - cosine` of the first token and of the mean token of `last_hidden_state`,
        the mean over the dense samples taken out, the mean of the two."""
        merged = self._run()
        if self.distance is not None:
            return torch.cat([self.distance(*one) for one in zip(merged, self.dense, self.batches)]).float()
        if self.classifies:
            return torch.cat([_divergence(*one) for one in zip(merged, self.dense)])
        cosines = [
            functional.cosine_similarity(first - centre, second - centre, dim=-1)
            for first, second, centre in zip(_joined(merged), _joined(self.dense), self._centres)
        ]
        return 1 - torch.stack(cosines).mean(dim=0)

    @property
    def loss_name(self) -> str:
        """What [`~Samples.losses`] are of this model, in words."""
        if self.distance is not None:
            return "the distance that was passed"
        if self.classifies:
            return "the Kullback-Leibler divergence of the logits"
        return "1 - cosine of the first token and of the mean token, the mean of the two"

    def check_classes(self) -> None:
        """
        Raises:
            ValueError: if the model gives no classes to agree on.
        """
        if not self.classifies or self.dense[0].dim() != 2:
            raise ValueError(
                f"{type(self.model).__name__} gives no classes to agree on. Bound the loss instead: max_loss, or "
                "--max-loss."
            )

    def agreement(self) -> torch.Tensor:
        """Which samples get the class that the dense model gives them, `(num_samples,)` bool. See
        [`~Samples.check_classes`]."""
        return torch.cat([merged.argmax(-1) == dense.argmax(-1) for merged, dense in zip(self._run(), self.dense)])


def checked(batches: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The batches.

    Raises:
        ValueError: if there is none, or one is no mapping.
    """
    refuse_one_batch(batches)
    batches = list(batches)
    if not batches:
        raise ValueError("No calibration batches: pass at least one mapping of model inputs.")
    if not all(isinstance(batch, Mapping) for batch in batches):
        raise ValueError("A calibration batch is a mapping of model inputs, such as {'pixel_values': tensor}.")
    return batches


def refuse_one_batch(batches: Any) -> None:
    """
    Raises:
        ValueError: if `batches` is no list of batches but one, whose names would be taken for batches.
    """
    if isinstance(batches, Mapping):
        raise ValueError("batches is one batch: pass a list of batches, such as [batch].")


def set_apart(batches: Iterable[Mapping[str, Any]], every: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The samples of `batches` but for each `every`-th one, and these, both in batches."""
    kept, apart, start = [], [], 0
    for batch in checked(batches):
        size = len(next(iter(batch.values())))
        of_apart = [index for index in range(size) if (start + index) % every == every - 1]
        of_kept = sorted(set(range(size)) - set(of_apart))
        start += size
        for part, rows in ((kept, of_kept), (apart, of_apart)):
            if rows:
                part.append({name: _rows(value, rows, size) for name, value in batch.items()})
    return kept, apart


def _rows(value: Any, rows: list[int], size: int) -> Any:
    """Of what has a row for each sample these rows; a setting such as `interpolate_pos_encoding` as it is."""
    if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == size:
        return value[rows]
    return [value[row] for row in rows] if isinstance(value, list) and len(value) == size else value


def _joined(pooled_batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """The first token and the mean token of every sample, both `(num_samples, dim)` float32."""
    return [torch.cat(feature) for feature in zip(*pooled_batches)]


def _divergence(merged: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    if merged.shape != dense.shape:
        raise ValueError(
            f"Merged outputs have the shape {tuple(merged.shape)}, dense ones {tuple(dense.shape)}: there is no "
            "common distance. Pass one of your own (distance=...)."
        )
    student, teacher = (logits.float().log_softmax(dim=-1) for logits in (merged, dense))
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return divergence.flatten(1).mean(dim=1) if divergence.dim() > 1 else divergence


def first_and_mean(output: Any, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The first token and the mean token of `last_hidden_state`, both `(batch_size, dim)` float32."""
    hidden_states = output.last_hidden_state.float()
    mask = inputs.get("attention_mask")
    if mask is None or mask.shape != hidden_states.shape[:2]:
        return hidden_states[:, 0], hidden_states.mean(dim=1)
    return hidden_states[:, 0], mean_token(hidden_states, mask)


def mean_token(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens that `mask` names, `(batch_size, dim)`."""
    weights = mask.unsqueeze(-1).to(hidden_states.dtype)
    return (hidden_states * weights).sum(dim=1) / weights.sum(dim=1)


def pooled(output: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """One vector per sample, `(batch_size, dim)`: the mean over the tokens that `attention_mask` names, as
    sentence-transformers does; without a mask `pooler_output`, or else the first token."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        return mean_token(output.last_hidden_state, mask)
    vectors = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if vectors is None else vectors
