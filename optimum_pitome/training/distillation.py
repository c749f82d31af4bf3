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

"""[`DenseDistillation`]: the model run dense teaches the same model merging, without a second copy in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..apply import pitome_disabled
from ..configuration.checks import check_choice
from ..modeling.eval_mode import eval_mode


FEATURES = ("cosine", "mse")

#: Inputs that make a model compute a loss, for which the teacher has no use.
_LOSS_INPUTS = ("labels", "return_loss", "num_items_in_batch", "next_sentence_label", "sentence_order_label")


@dataclass(frozen=True)
class DenseDistillation:
    """The divergence of a merging forward from the same model's dense one, to be added to the loss.

    The teacher is the model itself under [`pitome_disabled`], in eval mode and without gradient: one more dense
    forward per step, and no more weights in memory. It changes as the model does.

    ```python
    distillation = DenseDistillation(temperature=2.0)
    outputs = model(**inputs)
    loss = outputs.loss + distillation(model, inputs, outputs)
    ```

    Args:
        weight (`float`, *optional*, defaults to 1.0):
            Weight of the Kullback-Leibler divergence between the classes, over the last dimension of `logits`.
        temperature (`float`, *optional*, defaults to 2.0):
            Divides both logits; the divergence is scaled by its square.
        features (`str`, *optional*):
            Also compare the last hidden states, at the original length: `"cosine"` (1 - cosine per token) or `"mse"`.
        feature_weight (`float`, *optional*, defaults to 1.0): Weight of that.

    Raises:
        ValueError: for a value out of range.
    """

    weight: float = 1.0
    temperature: float = 2.0
    features: str | None = None
    feature_weight: float = 1.0

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature!r}: expected a number above 0.")
        for name in ("weight", "feature_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected a number of at least 0.")
        check_choice("features", self.features, FEATURES)

    def prepare(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs for the merging forward: it must return its hidden states if they are compared."""
        return {**inputs, "output_hidden_states": True} if self.features else dict(inputs)

    def __call__(self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any) -> torch.Tensor:
        """The divergence, a scalar, from what `model` made of `inputs` while merging.

        Args:
            model (`torch.nn.Module`): the rewritten model, wrapped (DDP, FSDP, `torch.compile`) or not.
            inputs (`Mapping`): what the merging forward got (see [`~DenseDistillation.prepare`]).
            outputs (`ModelOutput`): what it returned, with gradient.

        Raises:
            ValueError: if `outputs` has nothing of what is to be compared.
        """
        # DDP's own forward would get its reducer ready for a backward that never comes.
        model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        inputs = {name: value for name, value in self.prepare(inputs).items() if name not in _LOSS_INPUTS}
        with torch.no_grad(), pitome_disabled(model), eval_mode(model):
            dense = model(**inputs)
        terms = []
        if self.weight:
            student, teacher = (_get(output, "logits", "weight=0.0") for output in (outputs, dense))
            terms.append(self.weight * self._class_divergence(student, teacher))
        if self.features:
            student, teacher = (_get(output, "hidden_states", "features=None")[-1] for output in (outputs, dense))
            terms.append(self.feature_weight * self._feature_distance(student, teacher, inputs.get("attention_mask")))
        return sum(terms, start=torch.zeros((), device=next(model.parameters()).device))

    def _class_divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student, teacher = (
            (logits.float() / self.temperature).log_softmax(dim=-1).flatten(0, -2) for logits in (student, teacher)
        )
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2

    def _feature_distance(
        self, student: torch.Tensor, teacher: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        if student.shape != teacher.shape:
            raise ValueError(
                f"The merged hidden states have shape {tuple(student.shape)}, the dense ones {tuple(teacher.shape)}. "
                "Comparing features needs outputs at the original length: PiToMeConfig(unmerge=True)."
            )
        student, teacher = student.float(), teacher.float()
        if self.features == "cosine":
            distance = 1 - functional.cosine_similarity(student, teacher, dim=-1)
        else:
            distance = (student - teacher).square().mean(dim=-1)
        if attention_mask is None or attention_mask.shape != distance.shape:
            return distance.mean()
        real = attention_mask.to(distance.dtype)
        return (distance * real).sum() / real.sum()


def _get(outputs: Any, name: str, remedy: str) -> Any:
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if value is None:
        raise ValueError(
            f"DenseDistillation compares {name}, but the model returned "
            f"{', '.join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}. Use {remedy} to leave "
            "that part out."
        )
    return value
