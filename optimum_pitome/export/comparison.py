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

from ..configuration.checks import NotReachedError
from .modules import ExportedModule


#: Largest difference, relative to the largest value of an output, that rounding explains.
EXACT_TOLERANCE = 1e-3
#: Largest mean of 1 - cosine: of int8, and on data in which tokens are so alike that rounding decides what merges.
LOSS_TOLERANCE = 0.05


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        difference (`float`): largest difference of any value of any output.
        relative (`float`): the same, relative to the largest value of its output.
        equal (`float`): share of samples without a difference above `EXACT_TOLERANCE`, relative to the largest value.
        loss (`float`): mean over samples of 1 - cosine between what the file and PyTorch say, the worst output.
        agreement (`float`, *optional*): share of samples, or tokens, with the same class; of classifiers.
        num_samples, num_batches (`int`): compared.
    """

    difference: float
    relative: float
    equal: float
    loss: float
    agreement: float | None
    num_samples: int
    num_batches: int

    def __str__(self) -> str:
        text = (
            f"{self.num_samples} samples in {self.num_batches} batches: largest difference from PyTorch "
            f"{self.difference:.2g} ({self.relative:.2g} of the largest value), {100 * self.equal:.1f} % equal, "
            f"mean of 1 - cosine {self.loss:.2g}"
        )
        return text if self.agreement is None else f"{text}, same class in {100 * self.agreement:.2f} %"


@torch.no_grad()
def compare(
    module: ExportedModule,
    run: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]],
    batches: Iterable[Mapping[str, torch.Tensor]],
) -> Comparison:
    """Runs both on `batches`; of texts, what they say about padding does not count.

    Raises:
        NotReachedError: if the file has other outputs, or outputs of other shapes.
    """
    differences: list[torch.Tensor] = []
    relatives: list[torch.Tensor] = []
    losses: dict[str, list[torch.Tensor]] = {}
    same, num_batches = [], 0
    for batch in batches:
        expected, found = module(**batch), run(batch)
        each = []
        for name, wanted in expected.items():
            if name not in found or found[name].shape != wanted.shape:
                shape = tuple(found[name].shape) if name in found else None
                raise NotReachedError(f"The file says {name} {shape} where PyTorch says {tuple(wanted.shape)}.")
            wanted, got = wanted.float().cpu(), found[name].float().cpu()
            if name == "logits" and wanted.shape[-1] > 1:
                same.append(wanted.argmax(-1) == got.argmax(-1))
            if name in module.token_outputs and "attention_mask" in batch:
                real = batch["attention_mask"].bool().cpu()
                same[-1:] = [same[-1][real]] if name == "logits" and same else same[-1:]
                padding = ~real.view(*real.shape, *[1] * (wanted.dim() - 2))
                wanted, got = wanted.masked_fill(padding, 0.0), got.masked_fill(padding, 0.0)
            wanted, got = wanted.reshape(len(wanted), -1), got.reshape(len(got), -1)
            difference = (wanted - got).abs().nan_to_num(math.inf).amax(dim=1)
            each.append(difference / wanted.abs().max().clamp(min=1e-6))
            differences.append(difference)
            losses.setdefault(name, []).append(1 - torch.nn.functional.cosine_similarity(wanted, got))
        relatives.append(torch.stack(each).amax(dim=0))
        num_batches += 1
    relative = torch.cat(relatives)
    return Comparison(
        torch.cat(differences).max().item(),
        relative.max().item(),
        (relative <= EXACT_TOLERANCE).float().mean().item(),
        max(torch.cat(values).mean().item() for name, values in losses.items()),
        torch.cat([one.flatten() for one in same]).float().mean().item() if same else None,
        len(relative),
        num_batches,
    )


def check(found: Comparison, by_loss: bool, tolerance: float | None) -> None:
    """
    Args:
        by_loss (`bool`): whether the mean of 1 - cosine counts, or the largest difference.

    Raises:
        NotReachedError: if the file is further from PyTorch than `tolerance`.
    """
    value, usual = (found.loss, LOSS_TOLERANCE) if by_loss else (found.relative, EXACT_TOLERANCE)
    tolerance = usual if tolerance is None else tolerance
    if not value <= tolerance:
        what = "its mean of 1 - cosine" if by_loss else "its largest difference, relative to the largest value,"
        raise NotReachedError(
            f"The exported file does not say what the model says in PyTorch. {found}. Nothing was kept, since {what} "
            f"is above the tolerance of {tolerance:g}. Another format may be exact; a higher tolerance accepts it."
        )
