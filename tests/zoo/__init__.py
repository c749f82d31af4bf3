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

"""One tiny model per class that the package supports. The tests in `tests/families` run over all of them.

A new family adds a module here with a list `CASES`; a meta-test checks that every registered architecture has one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import nn


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        model_class: the transformers class.
        config: makes a tiny configuration.
        inputs: makes inputs for a batch of the given size (called with `batch_size`), without labels.
        across_samples: outputs that compare the samples of a batch with one another (contrastive logits).
        reads_every_token: it refuses `unmerge=False`.
        eager_only: transformers has no SDPA for it, and the rewriting adds it.
        of_batch: outputs that say something of the whole batch (losses).
        variant: what tells it from another case of the same class.
        flat: outputs that hold the samples one after the other: in a tuple, or without a dimension for them.
        packed: inputs that hold the samples one after the other, as many rows for each.
        encoder_config: the sub-configuration whose model has the attention implementations, if the others have not.
        shortens: its sequences lose the merged tokens, whatever it is asked for.
        prepare: changes the fresh model (optional), for weights that would hide an error at their initial value.
        shows_attentions: it takes `output_attentions=True`.
        runs_since: the first transformers release in which the dense model itself works.
        supported_since: the first in which it can be rewritten; before, it is refused.
    """

    model_class: type[nn.Module]
    config: Callable[[], Any]
    inputs: Callable[[int], dict[str, torch.Tensor]]
    prepare: Callable[[nn.Module], None] | None = None
    across_samples: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    of_batch: tuple[str, ...] = ()
    packed: tuple[str, ...] = ()
    variant: str = ""
    shortens: bool = False
    reads_every_token: bool = False
    eager_only: bool = False
    encoder_config: str = ""
    shows_attentions: bool = True
    runs_since: str = "5.0"
    supported_since: str = "5.0"

    @property
    def tolerance(self) -> float:
        """How far the rewritten model may be from the dense one where nothing merges."""
        return 1e-5 if self.eager_only else 0.0

    @property
    def id(self) -> str:
        return self.model_class.__name__ + self.variant

    def one_of(self, inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
        """One sample of a batch, alone."""
        batch_size = next(len(value) for name, value in inputs.items() if name not in self.packed)
        return {
            name: value.chunk(batch_size)[index] if name in self.packed else value[index : index + 1]
            for name, value in inputs.items()
        }

    def build(self, attn_implementation: str = "sdpa", dtype: torch.dtype = torch.float32) -> nn.Module:
        """A fresh model with seeded weights, in eval mode."""
        torch.manual_seed(0)
        chosen = "eager" if self.eager_only else attn_implementation
        if self.encoder_config:
            chosen = {"": "eager", self.encoder_config: attn_implementation}
        model = self.model_class._from_config(self.config(), attn_implementation=chosen)
        with torch.no_grad():
            for parameter in model.parameters():
                # The usual initialisation is so small that every token looks alike.
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if self.prepare is not None:
            self.prepare(model)
        return model.to(dtype).eval()


def outputs_of(output: Any) -> dict[str, torch.Tensor]:
    """Every tensor of a model's output, by name; tuples of tensors are numbered."""
    found = {}
    for name, value in output.items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, (tuple, list)):
            found.update({f"{name}.{i}": item for i, item in enumerate(value) if isinstance(item, torch.Tensor)})
        elif hasattr(value, "items"):
            found.update({f"{name}.{key}": item for key, item in outputs_of(value).items()})
    return found


def every_case() -> list[Case]:
    """Whatever the installed transformers can do with them."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]


def all_cases() -> list[Case]:
    """Those that the installed transformers can run, rewritten."""
    return [case for case in every_case() if _is_installed(case.runs_since) and _is_installed(case.supported_since)]


def one_per_encoder() -> list[Case]:
    """The first of each configuration: enough for what happens in layers, whatever head reads them."""
    return list({case.config: case for case in reversed(all_cases())}.values())[::-1]


def refused_cases() -> list[Case]:
    """Those that the installed transformers is too old for."""
    return [
        case for case in every_case() if _is_installed(case.runs_since) and not _is_installed(case.supported_since)
    ]


def _is_installed(release: str) -> bool:
    return Version(transformers.__version__) >= Version(release)
