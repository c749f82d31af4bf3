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

"""How far a written file is from the model in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from .modules import ExportedModule


#: Largest difference, relative to the largest value of an output, that rounding explains.
EXACT_TOLERANCE = 1e-3
#: Largest mean of 1 - cosine that int8 may cost.
INT8_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        difference (`float`): largest difference of any value of any output.
        relative (`float`): the same, relative to the largest value of its output.
        loss (`float`): mean over samples of 1 - cosine between what the file and PyTorch say, the worst output.
        agreement (`float`, *optional*): share of samples, or tokens, with the same class; of classifiers.
        num_samples, num_batches (`int`): compared.
    """

    difference: float
    relative: float
    loss: float
    agreement: float | None
    num_samples: int
    num_batches: int

    def __str__(self) -> str:
        text = (
            f"largest difference from PyTorch {self.difference:.2g} ({self.relative:.2g} of the largest value), mean "
            f"of 1 - cosine {self.loss:.2g}, on {self.num_samples} samples in {self.num_batches} batches"
        )
        return text if self.agreement is None else f"{text}; same class in {100 * self.agreement:.2f} %"


@torch.no_grad()
def compare(
    module: ExportedModule,
    run: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]],
    batches: Iterable[Mapping[str, torch.Tensor]],
) -> Comparison:
    """Runs both on `batches`; of texts, what they say about padding does not count.

    Raises:
        ValueError: if the file has other outputs, or outputs of other shapes.
    """
    differences, relatives, agreeing, classes, num_samples, num_batches = [0.0], [0.0], 0, 0, 0, 0
    losses: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        expected, found = module(**batch), run(batch)
        mask = batch.get("attention_mask")
        for name, wanted in expected.items():
            if name not in found or found[name].shape != wanted.shape:
                shape = tuple(found[name].shape) if name in found else None
                raise ValueError(f"The file says {name} {shape} where PyTorch says {tuple(wanted.shape)}.")
            wanted, got = wanted.float().cpu(), found[name].float()
            tokens = name in module.token_outputs and mask is not None
            samples = (
                torch.arange(len(wanted)).unsqueeze(1).expand(mask.shape) if tokens else torch.arange(len(wanted))
            )
            if tokens:
                wanted, got, samples = wanted[mask.bool()], got[mask.bool()], samples[mask.bool()]
            differences.append(_largest(wanted - got))
            relatives.append(differences[-1] / max(_largest(wanted), 1e-6))
            if wanted.dim() > 1:
                cosine = torch.nn.functional.cosine_similarity(wanted.flatten(1), got.flatten(1))
                losses.setdefault(name, []).append(1 - cosine)
            if name == "logits" and wanted.shape[-1] > 1:
                agreeing += (wanted.argmax(-1) == got.argmax(-1)).sum().item()
                classes += wanted[..., 0].numel()
        num_samples, num_batches = num_samples + len(next(iter(batch.values()))), num_batches + 1
    loss = max((torch.cat(values).mean().item() for values in losses.values()), default=0.0)
    return Comparison(
        max(differences, key=_nan_first),
        max(relatives, key=_nan_first),
        loss,
        agreeing / classes if classes else None,
        num_samples,
        num_batches,
    )


def _largest(values: torch.Tensor) -> float:
    return values.abs().max().item() if values.numel() else 0.0


def _nan_first(value: float) -> float:
    return math.inf if math.isnan(value) else value


def check(found: Comparison, quantized: bool, tolerance: float | None) -> None:
    """
    Raises:
        ValueError: if the file is further from PyTorch than `tolerance`.
    """
    value, usual = (found.loss, INT8_TOLERANCE) if quantized else (found.relative, EXACT_TOLERANCE)
    tolerance = usual if tolerance is None else tolerance
    if not value <= tolerance:
        what = "its mean of 1 - cosine" if quantized else "its largest difference, relative to the largest value,"
        raise ValueError(
            f"The exported file does not say what the model says in PyTorch: {found}. Nothing was kept, since {what} "
            f"is above the tolerance of {tolerance:g}. Another format may be exact; a higher tolerance accepts it."
        )
