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

from ...modeling.wrap import wrap
from .counts import num_image_tokens


def write_short_prompts(processor: Any, model: nn.Module) -> None:
    """From now on `processor` writes as many image tokens for a picture as `model` reads, at its settings then.

    Args:
        processor (`LlavaProcessor`): changed in place, for this process: what it saves is as before.
        model (`torch.nn.Module`): a LLaVA or VipLLaVA, rewritten or dense.
    """

    def make(original):
        def replace_image_token(image_inputs, image_idx, **kwargs):
            size = tuple(image_inputs["pixel_values"][image_idx].shape[-2:])
            return processor.image_token * num_image_tokens(model, size)

        return replace_image_token

    wrap(processor, "replace_image_token", make)
