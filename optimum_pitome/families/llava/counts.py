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

"""How many tokens an image takes in the prompt of a LLaVA or another short prompt, before and after merging."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.models.clip import modeling_clip

from ...configuration.config import PiToMeConfig
from ...merging import MergeSpec
from ...modeling.architecture import Architecture
from ...modeling.operations import EncoderShape
from ...modeling.registry import UnsupportedArchitectureError, find_architecture, supported_message
from ...modeling.resolve import resolve_specs
from ...modeling.rewrite import EncoderRewrite, rewritten_encoders


#: Names of the argument and of the configuration's field; VipLLaVA had the plural before transformers 5.23.
FEATURE_LAYER_NAMES = ("vision_feature_layer", "vision_feature_layers")
#: Types of models whose prompts get shorter.
SHORT_PROMPTS = ("llava", "vipllava", "paligemma", "colpali", "deepseek_vl")
#: Where such a model keeps its vision tower, and what each feature of it passes before the language model.
TOWER_NAMES, PROJECTOR_NAMES = ("vision_tower", "vision_model"), ("multi_modal_projector", "aligner")

#: Layers of the released code's CLIP tower that match as ToMe does; later ones match as PiToMe does.
_TOME_LAYERS = 13


def base_of(model: nn.Module) -> nn.Module:
    """The model that puts the features of images into the prompt, inside one with a head."""
    for name in ("vlm", "model"):
        model = getattr(model, name, model)
    return model


def part_of(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The sub-module of `model` that has one of `names`."""
    return next(getattr(model, name) for name in names if hasattr(model, name))


def reads_output(config: PreTrainedConfig) -> bool:
    """Whether every token that leaves the tower is read, in place of hidden states of layers that can be chosen."""
    return not any(hasattr(config, name) for name in FEATURE_LAYER_NAMES)


def feature_layers(config: PreTrainedConfig, given: int | Sequence[int] | None = None) -> tuple[int, ...]:
    """The hidden states of the tower that the projector reads, as indices that are not negative.

    Args:
        config: the LLaVA's configuration.
        given (`int` or `list[int]`, *optional*): what the caller of the forward passed instead.

    Raises:
        ValueError: if the tower has no such hidden state.
    """
    if given is None:
        given = next((getattr(config, name) for name in FEATURE_LAYER_NAMES if hasattr(config, name)), -1)
    count = config.vision_config.num_hidden_layers + 1
    layers = [given] if isinstance(given, int) else list(given)
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"vision_feature_layer={given!r}: the tower has {count} hidden states, so {layer} is out of range "
                f"(accepted: {-count} to {count - 1})."
            )
    return tuple(layer % count for layer in layers)


def official_llava(index: int, num_layers: int) -> dict:
    """LLaVA's CLIP tower in the released code: merged after each whole layer, without sizes."""
    return {
        "algorithm": "tome" if index < _TOME_LAYERS else "pitome",
        "energy": "elu",
        "metric": "hidden_states",
        "margin": 0.9 - 0.9 * index / num_layers,
        "proportional_attention": False,
        "weighted_by": "nothing",
        "after": "layer",
    }


def tower_inside_llava(config: PreTrainedConfig, architecture: Architecture) -> Architecture:
    """A tower's entry inside the LLaVA of `config`: what leaves it is the short sequence."""
    settings: dict[str, Any] = {"defaults": {**architecture.defaults, "unmerge": False}}
    if reads_output(config):
        settings["full_length_at"] = None  # nobody reads what a pooling head of the tower makes of its tokens
        return replace(architecture, **settings)
    settings["reads"] = feature_layers(config)
    if architecture.encoder_class is modeling_clip.CLIPVisionModel:
        settings["official"] = official_llava
    return replace(architecture, **settings)


def active_tower(model: nn.Module) -> EncoderRewrite | None:
    """The rewrite of the vision tower of `model`, where the next forward merges."""
    for encoder in rewritten_encoders(part_of(model, TOWER_NAMES)):
        if encoder.pitome.merges:
            return encoder.pitome
    return None


def drops_class_token(config: PreTrainedConfig, strategy: str | None = None) -> bool:
    """Whether the tower's first token is not read."""
    if reads_output(config):
        return False
    # VipLLaVA knows no strategy: it always drops it.
    return (strategy or getattr(config, "vision_feature_select_strategy", "default")) == "default"


def count_features(
    config: PreTrainedConfig,
    architecture: Architecture,
    specs: tuple[MergeSpec, ...],
    image_size: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    strategy: str | None = None,
) -> int:
    """Features per image that reach the projector; `specs` of ratio 1 (or none) give the dense model's number."""
    vision_config = config.vision_config
    size = image_size if image_size is None or isinstance(image_size, int) else list(image_size)
    tokens, prefix = architecture.count_tokens(vision_config, size), architecture.count_prefix(vision_config)
    for spec in specs[: max(feature_layers(config, layers))]:
        tokens -= spec.ratio.num_removed(tokens - prefix, prefix)
    return tokens - int(drops_class_token(config, strategy))


def num_image_tokens(model: Any, image_size: int | Sequence[int] | None = None) -> int:
    """Tokens that one image takes in a prompt that gets shorter: as many `<image>` placeholders are enough.

    Serving engines that reserve prompt space up front, and processors that write the short prompt themselves, need it.

    Args:
        model (`PreTrainedModel` or `PreTrainedConfig`):
            A LLaVA, VipLLaVA, PaliGemma, ColPali or DeepSeek-VL, rewritten or dense, or its configuration, whose
            `pitome` entry then counts.
        image_size (`int` or `(height, width)`, *optional*):
            In pixels; defaults to that in the settings of a model that merges, else in the configuration.

    Raises:
        UnsupportedArchitectureError: if the vision tower cannot be rewritten, so that nothing is known about it.
        ValueError: if `model` is none of those.
    """
    config = model if isinstance(model, PreTrainedConfig) else getattr(model, "config", None)
    if getattr(config, "model_type", None) not in SHORT_PROMPTS:
        raise ValueError(
            "num_image_tokens needs a model whose prompt gets shorter, or its configuration: a LLaVA, VipLLaVA, "
            f"PaliGemma, ColPali or DeepSeek-VL, not {type(model).__name__} "
            f"(model_type={getattr(config, 'model_type', None)!r})."
        )
    if isinstance(model, nn.Module):
        model = base_of(model)
        architecture, rewrite = tower_architecture(part_of(model, TOWER_NAMES)), active_tower(model)
        specs = () if rewrite is None or rewrite.unmerge else rewrite.specs
        image_size = image_size or (None if rewrite is None else rewrite.config.image_size)
        return count_features(model.config, architecture, specs, image_size)
    settings = PiToMeConfig.from_value(getattr(config, "pitome", None))
    config = getattr(config, "vlm_config", config)
    tower = _empty_tower(config.vision_config)
    architecture = tower_architecture(tower)
    settings = None if settings is None else settings.for_part(architecture.part)
    image_size = image_size or (None if settings is None else settings.image_size)
    if settings is None or settings.unmerge:
        return count_features(config, architecture, (), image_size)
    architecture = tower_inside_llava(config, architecture)
    num_layers = config.vision_config.num_hidden_layers
    has_class_token = architecture.has_class_token(config.vision_config)
    (encoder,) = (module for module in tower.modules() if find_architecture(module) is not None)
    shape_of = functools.partial(
        EncoderShape.of, encoder, architecture, image_size=settings.image_size, num_layers=num_layers
    )
    specs = resolve_specs(settings, architecture, num_layers, has_class_token, shape_of)
    return count_features(config, architecture, specs, image_size)


def tower_architecture(tower: nn.Module) -> Architecture:
    """The registry's entry for the encoder in a vision tower."""
    for module in tower.modules():
        if (architecture := find_architecture(module)) is not None:
            return architecture
    raise UnsupportedArchitectureError(f"{type(tower).__name__} cannot be rewritten. {supported_message()}")


def _empty_tower(vision_config: PreTrainedConfig) -> nn.Module:
    """A tower of one layer without weights: enough to see what it is made of."""
    vision_config = copy.deepcopy(vision_config)
    vision_config.num_hidden_layers = 1
    with torch.device("meta"):
        return AutoModel.from_config(vision_config)
