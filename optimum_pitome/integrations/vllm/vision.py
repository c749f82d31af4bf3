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

"""Vision towers for vLLM's own classes: transformers' towers, rewritten, whole on every device."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, CLIPTextConfig, LlamaConfig, SiglipTextConfig


#: Language models and text towers of nothing, which vLLM has of its own.
_NO_TEXT = {"clip": CLIPTextConfig, "siglip": SiglipTextConfig}
_NOTHING = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"), 1),
    **dict.fromkeys(("num_hidden_layers", "pad_token_id", "bos_token_id", "eos_token_id"), 0),
}
#: A level in the names of weights that is there or not, by the version of transformers that saved them.
_LEVEL = "vision_model."


def vision_half(config: Any) -> nn.Module:
    """A LLaVA, CLIP or SigLIP that merges as its configuration says, with next to nothing where the text is read.

    Raises:
        ValueError: if the settings do not fit the model.
    """
    config = copy.deepcopy(config)
    config.text_config = _NO_TEXT.get(config.model_type, LlamaConfig)(**_NOTHING)
    return AutoModel.from_config(config, dtype=torch.get_default_dtype()).eval()


class _Tower(nn.Module):
    def __init__(self, model: nn.Module, tower: nn.Module):
        super().__init__()
        self.vision_model = tower
        vars(self)["model"] = model  # not a part of this one

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Reads weights under the names that any transformers gave them.

        Returns:
            The names here of those that were read.
        """
        own = dict(self.named_parameters())
        names = {_without_level(name): name for name in own}
        read = set()
        for name, weight in weights:
            if name.endswith("position_ids"):  # no weight; old checkpoints have it
                continue
            found = names.get(_without_level(name))
            if found is None or own[found].shape != weight.shape:
                raise ValueError(
                    f"The vision tower has no weight {name!r} of shape {tuple(weight.shape)}. Is it quantized? "
                    "A tower that merges reads its weights as they are."
                )
            own[found].data.copy_(weight)
            read.add(found)
        return read


def _without_level(name: str) -> str:
    return name.replace(_LEVEL, "")


class LlavaTower(_Tower):
    """What takes the place of the vision tower in vLLM's LLaVA."""

    def __init__(self, config: Any):
        model = vision_half(config)
        model.multi_modal_projector = nn.Identity()  # vLLM's own comes after this tower
        super().__init__(model, model.vision_tower)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`(images, 3, height, width)` to `(images, n, dim)`: the features that are left, for the projector."""
        return torch.stack(self.model.get_image_features(pixel_values, return_dict=True).pooler_output)


class PooledTower(_Tower):
    """What takes the place of the vision tower in vLLM's CLIP and SigLIP embedding models."""

    def __init__(self, config: Any):
        model = vision_half(config)
        super().__init__(model, model.vision_model)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`(images, 3, height, width)` to `(images, 1, dim)`: the pooled output, before the projection."""
        return self.vision_model(pixel_values).pooler_output[:, None]
