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

"""A processor that writes the short prompt itself, for servers: they count tokens before the model sees them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from ...configuration.checks import check_picture_size
from ...configuration.config import PiToMeConfig
from ...modeling.notes import warn_once
from ...modeling.pictures import picture_shape
from ...modeling.wrap import wrap
from .counts import num_image_tokens


logger = logging.get_logger(__name__)


def picture_size(processor: Any) -> tuple[int, int]:
    """Height and width of the pictures that a processor makes, which need not be those in the configuration of the
    vision tower."""
    return picture_shape(processor.image_processor)[-2:]


def tokens_of_a_picture(processor: Any, model: Any) -> int:
    """Tokens that a picture takes in the prompt, of the size that `processor` makes: see [`num_image_tokens`]. Warns
    where a budget was counted for another size."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    size, counted = picture_size(processor), config.vision_config.image_size
    settings = PiToMeConfig.from_value(getattr(config, "pitome", None))
    settings = None if settings is None else settings.for_part("vision")
    counted = counted if settings is None else settings.image_size or counted
    if list(size) != [counted] * 2 and list(size) != counted and settings is not None and settings.ratio is None:
        warn_once(
            logger,
            f"The processor makes pictures of {size[0]} x {size[1]} pixels, and the budget is counted for {counted} "
            f"(image_size in the settings, else in the configuration of the vision tower). Give image_size="
            f"{check_picture_size('image_size', size)} beside it, or take a processor that makes {counted}.",
        )
    return num_image_tokens(model, size)


def write_short_prompts(processor: Any, model: nn.Module) -> None:
    """From now on `processor` writes as many image tokens for a picture as `model` reads, at its settings then.

    Args:
        processor (`ProcessorMixin`):
            Changed in place, for this process: what it saves is as before. Where it does not write images by its
            `replace_image_token` (PaliGemma's in early releases 5 of transformers), it writes what it wrote, and the
            model shortens that.
        model (`torch.nn.Module`): one whose prompt gets shorter, rewritten or dense.
    """

    def make(original):
        def replace_image_token(image_inputs, image_idx, **kwargs):
            size = tuple(image_inputs["pixel_values"][image_idx].shape[-2:])
            return processor.image_token * num_image_tokens(model, size)

        return replace_image_token

    wrap(processor, "replace_image_token", make)
