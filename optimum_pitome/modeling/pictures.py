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

"""What a processor makes of a picture. Its size need not be the one in the model's configuration, and a budget is for
the pictures that the model gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from ..configuration.checks import check_picture_size
from ..configuration.config import PiToMeConfig
from .beside import read_beside
from .parts import select_encoders


#: Either may hold the settings of an image processor.
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def picture_shape(image_processor: Any, width: int = 64) -> tuple[int, ...]:
    """The shape of what an image processor makes of one picture, here of 64 x `width` pixels: `(channels, height,
    width)` of most."""
    blank = Image.new("RGB", (width, 64))
    return tuple(np.shape(image_processor(images=[blank], return_tensors="np")["pixel_values"])[1:])


def picture_size_of(batches: Iterable[Mapping[str, Any]]) -> int | list[int] | None:
    """The size of the pictures in inputs of a model, `(B, channels, height, width)`; `None` where there are none, or
    of several sizes."""
    pictures = [batch["pixel_values"] for batch in batches if isinstance(batch, Mapping) and "pixel_values" in batch]
    sizes = {tuple(values.shape[-2:]) for values in pictures if getattr(values, "ndim", 0) == 4}
    return check_picture_size("image_size", sizes.pop()) if len(sizes) == 1 else None


def with_picture_size(
    model: nn.Module, settings: PiToMeConfig, size: int | list[int] | None = None, **hub: Any
) -> PiToMeConfig:
    """`settings`, with the size of the pictures that a budget is for, where they do not say it.

    Args:
        model (`torch.nn.Module`): dense or rewritten.
        settings ([`PiToMeConfig`]): a recipe stays as it is, unless `size` is said.
        size (`int` or `[height, width]`, *optional*):
            Of the pictures. `None`: of those that the processor beside the weights makes. Where there is none, or it
            makes them of the configured size, the settings stay as they are.
        hub: where to look for the processor: `token`, `cache_dir` and `local_files_only` of `from_pretrained`.
    """
    budgets = any(own.ratio is None for own in _of_parts(settings))
    if not budgets or (size is None and settings.base_model_name_or_path is not None):
        return settings
    open_sizes = []
    for encoder, architecture, own in select_encoders(list(model.modules()), settings):
        config = architecture.config_of(encoder)
        if own.ratio is None and own.image_size is None and architecture.reads_pictures(config):
            open_sizes.append(check_picture_size("image_size", config.image_size))
    if not open_sizes:
        return settings
    beside = size_beside(getattr(model, "config", None), **hub)
    wanted = beside if size is None else size
    # A size that differs from the processor's must be said, even the configured one.
    if wanted is None or (set(map(str, open_sizes)) == {str(wanted)} and beside in (None, wanted)):
        return settings
    return PiToMeConfig(**{**settings.to_pitome_dict(), "image_size": wanted})


def _of_parts(settings: PiToMeConfig) -> list[PiToMeConfig]:
    return [settings] if settings.parts is None else [settings.for_part(name) for name in settings.parts]


def size_beside(config: Any, **hub: Any) -> int | list[int] | None:
    """The size of what the image processor beside the weights makes; `None` without one, or where pictures keep their
    proportions, so that there is no one size."""
    return read_beside(config, "image processor", _PROCESSOR_FILES, _size_of_its_pictures, **hub)


def _size_of_its_pictures(name: str, **options: Any) -> int | list[int] | None:
    from transformers import AutoImageProcessor  # it takes its time, and most models need none

    processor = AutoImageProcessor.from_pretrained(name, **options)
    square, wide = picture_shape(processor), picture_shape(processor, width=96)
    return check_picture_size("image_size", square[-2:]) if square == wide and len(square) > 2 else None
