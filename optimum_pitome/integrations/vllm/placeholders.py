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

"""How many tokens an image takes in a prompt: the number that the vision tower's features have, from one function."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from ...families.llava.counts import num_image_tokens
from ...families.llava.processor import picture_size, tokens_of_a_picture
from .decision import SHORT_PROMPTS, merges, told


def count_image_tokens(config: Any, owner: Any, count: Callable[[Any], int] = num_image_tokens) -> int | None:
    """Tokens of an image in the prompt of a LLaVA that merges; `None` for any other model.

    Args:
        config (`PreTrainedConfig`): the model's.
        owner: an object of vLLM that keeps the number, which takes milliseconds to find.
        count (`Callable`, *optional*): from the configuration to the number, at the configured size unless it is said.
    """
    if config.model_type not in SHORT_PROMPTS or not merges(config):
        return None
    found = vars(owner).get("_pitome_image_tokens")
    if found is None:
        found = owner._pitome_image_tokens = count(config)
    return found


def shorten_processor(processor: Any, config: Any, owner: Any) -> Any:
    """A copy of a LLaVA's processor that writes the short number; of any other model, the processor itself.

    vLLM gives one processor to all that ask for the same model, so that one stays as it is. Pictures have the size
    that it makes, which need not be the one in the configuration.
    """
    short = count_image_tokens(config, owner, functools.partial(tokens_of_a_picture, processor))
    if short is None:
        return processor
    _tell(config.model_type, short)
    full = processor._get_num_multimodal_tokens(image_sizes=[picture_size(processor)])["num_image_tokens"][0]
    processor = copy.copy(processor)
    processor.num_additional_image_tokens += short - full
    return processor


@functools.cache  # once in every process
def _tell(model_type: str, number: int) -> None:
    told.info("%s: a picture takes %s tokens of the prompt.", model_type, number)
