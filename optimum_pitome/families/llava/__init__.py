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

"""LLaVA and its relatives: tokens merged in the vision tower disappear from the prompt of the language model, too.

`prompt.py` shortens the inputs of a forward, `generation.py` those of `generate`, `counts.py` says by how much.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace

from torch import nn
from transformers.models.llava import modeling_llava
from transformers.models.vipllava import modeling_vipllava

from ...configuration.config import PiToMeConfig
from ...modeling.architecture import Architecture
from ...modeling.hosts import Host, Reader, register_host, remove_hooks
from ...modeling.rewrite import rewritten_encoders
from ...modeling.signatures import by_name
from ...modeling.wrap import wrap
from .counts import (
    FEATURE_LAYER_NAMES,
    active_tower,
    drops_class_token,
    feature_layers,
    num_image_tokens,
    tower_inside_llava,
)
from .generation import generate_with_short_prompt
from .prompt import shorten_inputs


def adapt_tower(model: nn.Module, architecture: Architecture, config: PiToMeConfig) -> Architecture:
    """See [`~optimum_pitome.families.llava.counts.tower_inside_llava`]."""
    return tower_inside_llava(model.config, architecture)


def adapt_grid_tower(model: nn.Module, architecture: Architecture, config: PiToMeConfig) -> Architecture:
    """A tower's entry inside a model that lays features out on a fixed grid: it returns every token of the layers that
    are read."""
    return replace(architecture, reads=feature_layers(model.config))


def shorten_forward(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a LLaVA, with and without its language modeling head."""
    arguments = by_name(type(model).forward, args, kwargs)
    if arguments.get("pixel_values") is None and not arguments.get("mm_encoder_outputs"):
        return None  # text only, or a step of decoding
    shortened = shorten_inputs(getattr(model, "model", model), arguments)
    return None if shortened is None else ((), shortened)


def install(model: nn.Module) -> None:
    if shorten_forward not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(shorten_forward, with_kwargs=True, prepend=True)


def uninstall(model: nn.Module) -> None:
    remove_hooks(model, (shorten_forward,))


def find_reader(model: nn.Module) -> Reader | None:
    """The language model of a LLaVA whose tower is rewritten."""
    for encoder in rewritten_encoders(model.vision_tower):
        dropped = drops_class_token(model.config)
        return Reader(encoder, model.multi_modal_projector, model.language_model, int(dropped))
    return None


def _nothing(model: nn.Module) -> None:
    pass


def _register(module, base_name: str, head_name: str) -> None:
    base, head = getattr(module, base_name), getattr(module, head_name)
    wrap(head, "generate", generate_with_short_prompt)
    register_host(Host(base, install, uninstall, adapt_tower, "vision_tower", find_reader))
    register_host(Host(head, install, uninstall))


_register(modeling_llava, "LlavaModel", "LlavaForConditionalGeneration")
_register(modeling_vipllava, "VipLlavaModel", "VipLlavaForConditionalGeneration")

for _family, _name in (
    ("llava_next", "LlavaNextModel"),
    ("llava_next_video", "LlavaNextVideoModel"),
    ("llava_onevision", "LlavaOnevisionModel"),
):
    _module = importlib.import_module(f"transformers.models.{_family}.modeling_{_family}")
    _class = getattr(_module, _name)
    register_host(Host(_class, _nothing, _nothing, adapt_grid_tower, "vision_tower", reads_short=False))
