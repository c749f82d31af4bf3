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

"""[`Combination`]: what a row of the benchmark is about, and which of them an order makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


PYTORCH = "pytorch"
RUNTIMES = (PYTORCH, "onnx", "openvino")
#: Of `torch.compile`, beside `eager`; `regions` compiles layer by layer. The last two capture CUDA graphs.
REGIONS = "regions"
MODES = ("eager", "compile", REGIONS, "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")
CUDA_GRAPHS = MODES[-2:]
MEASURES = ("forward", "first-token", "training")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Combination:
    """
    Attributes:
        model (`str`): Hub id or folder.
        settings (`str`, *optional*): of the merging, as JSON. `None`: what the model's configuration says.
        dtype, attention, mode, runtime, measure (`str`): `attention` is `"default"` where nobody chose.
        quantize (`str`, *optional*): `"int8"`.
        batch_size (`int`).
        sequence_length (`int`, *optional*): of texts, in tokens.
        image_size (`int` or `[height, width]`, *optional*): of pictures, in pixels; `None`: the configured size.
    """

    model: str
    settings: str | None = None
    dtype: str = "float32"
    attention: str = "default"
    runtime: str = PYTORCH
    quantize: str | None = None
    mode: str = "eager"
    measure: str = "forward"
    batch_size: int = 1
    sequence_length: int | None = None
    image_size: int | list[int] | None = None

    @property
    def how(self) -> str:
        """What tells it from others of the same model, settings and batch size."""
        parts = [self.runtime, self.quantize or self.dtype]
        parts += [value for value, usual in ((self.attention, "default"), (self.mode, "eager")) if value != usual]
        return " ".join(parts if self.measure == "forward" else [*parts, self.measure])

    @property
    def exact(self) -> bool:
        """Whether it computes what the model says in PyTorch, as a forward that needs no comparison."""
        return self.measure != "forward" or (self.runtime == PYTORCH and self.quantize is None)

    def settings_dict(self) -> dict[str, Any] | None:
        return None if self.settings is None else json.loads(self.settings)

    def check(self, device: str) -> None:
        """Refuses what cannot be, before anything is built.

        Raises:
            ValueError: with the reason.
        """
        if self.runtime != PYTORCH:
            only = {"dtype": "float32", "attention": "default", "mode": "eager", "measure": "forward"}
            for name, value in only.items():
                if getattr(self, name) != value:
                    raise ValueError(f"exported files are measured with {name} {value} alone")
            if device != "cpu":
                raise ValueError(f"exported files run on the CPU here, not on {device}")
        if self.mode in CUDA_GRAPHS and not device.startswith("cuda"):
            raise ValueError(f"{self.mode} captures CUDA graphs, which {device} has not")
        if self.measure == "first-token" and self.mode != "eager":
            raise ValueError("the first token is measured eagerly alone: generate() compiles in its own way")
        if self.quantize is not None and (self.measure == "training" or self.dtype == "float16"):
            raise ValueError("int8 is for forwards, of float32 or bfloat16 models")


def combinations(
    model: str, settings: Sequence[Mapping[str, Any] | None], sizes: Mapping[str, Any], **choices: Sequence[Any]
) -> Iterator[Combination]:
    """Every combination of one model.

    Args:
        settings (`Sequence`): of the merging; `None` for those of the model.
        sizes (`Mapping`): `sequence_length` and `image_size`.
        choices: values for each of the other fields of [`Combination`]. What changes first is what costs least.
    """
    choices = {
        "runtime": choices.pop("runtime"),
        "dtype": choices.pop("dtype"),
        "attention": choices.pop("attention"),
        "quantize": choices.pop("quantize"),
        "settings": [None if one is None else json.dumps(one, sort_keys=True) for one in settings],
        **choices,
    }
    for values in itertools.product(*choices.values()):
        yield Combination(model, **sizes, **dict(zip(choices, values)))


def as_key(combination: Combination, machine: Mapping[str, Any]) -> str:
    """Tells a row in a file from all others: the same combination on another machine is another row."""
    return json.dumps([asdict(combination), dict(machine)], sort_keys=True)
