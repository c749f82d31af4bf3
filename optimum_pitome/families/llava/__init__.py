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

PaliGemma (alone, and in ColPali) and DeepSeek-VL read every token of their tower's output, and pool no grid of them.

`prompt.py` shortens the inputs of a forward, `generation.py` those of `generate`, `counts.py` says by how much.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

from torch import nn

from ...configuration.config import PiToMeConfig
from ...modeling.architecture import Architecture
from ...modeling.hosts import Host, Reader, register_host, remove_hooks
from ...modeling.rewrite import rewritten_encoders
from ...modeling.signatures import by_name
from ...modeling.wrap import wrap
from .counts import (
    PROJECTOR_NAMES,
    TOWER_NAMES,
    base_of,
    drops_class_token,
    feature_layers,
    part_of,
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
    shortened = shorten_inputs(base_of(model), arguments)
    return None if shortened is None else ((), shortened)


def with_short_prompt(forward):
    """Wraps the `forward` of a model that needs its inputs as short as its language model reads them, also where
    `forward` is called by itself, past the hooks."""

    def forward_short(self, *args, **kwargs):
        args, kwargs = shorten_forward(self, args, kwargs) or (args, kwargs)
        return forward(self, *args, **kwargs)

    return forward_short


def install(model: nn.Module) -> None:
    if shorten_forward not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(shorten_forward, with_kwargs=True, prepend=True)


def uninstall(model: nn.Module) -> None:
    remove_hooks(model, (shorten_forward,))


def find_reader(model: nn.Module) -> Reader | None:
    """The language model of a LLaVA whose tower is rewritten."""
    for encoder in rewritten_encoders(part_of(model, TOWER_NAMES)):
        dropped = drops_class_token(model.config)
        return Reader(encoder, part_of(model, PROJECTOR_NAMES), model.language_model, int(dropped))
    return None


def _nothing(model: nn.Module) -> None:
    pass


def _class(folder: str, name: str) -> type[nn.Module]:
    return getattr(importlib.import_module(f"transformers.models.{folder}.modeling_{folder}"), name)


for _folder, _name, _tower in (
    ("llava", "Llava", "vision_tower"),
    ("vipllava", "VipLlava", "vision_tower"),
    ("paligemma", "PaliGemma", "vision_tower"),
    ("deepseek_vl", "DeepseekVL", "vision_model"),
):
    _head = _class(_folder, f"{_name}ForConditionalGeneration")
    wrap(_head, "generate", generate_with_short_prompt)
    register_host(Host(_class(_folder, f"{_name}Model"), install, uninstall, adapt_tower, _tower, find_reader))
    register_host(Host(_head, install, uninstall))

# It has no generate, and one embedding for each token, which the mask that it got must fit: a page takes fewer.
_retriever = _class("colpali", "ColPaliForRetrieval")
wrap(_retriever, "forward", with_short_prompt)
register_host(Host(_retriever, _nothing, _nothing))

for _folder, _name in (
    ("llava_next", "LlavaNextModel"),
    ("llava_next_video", "LlavaNextVideoModel"),
    ("llava_onevision", "LlavaOnevisionModel"),
):
    _host = Host(_class(_folder, _name), _nothing, _nothing, adapt_grid_tower, "vision_tower", reads_short=False)
    register_host(_host)
