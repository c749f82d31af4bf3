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

"""Which encoders of a model are meant: composite models have several parts, and the settings may address each."""

from __future__ import annotations

from torch import nn

from ..configuration.checks import similar
from ..configuration.config import PiToMeConfig
from ..configuration.fields import FIELDS
from .architecture import Architecture
from .registry import (
    UnsupportedArchitectureError,
    explain,
    find_architecture,
    find_refusal,
    is_known,
    supported_message,
)
from .rewrite import rewritten_encoders


def select_encoders(
    modules: list[nn.Module], config: PiToMeConfig
) -> list[tuple[nn.Module, Architecture, PiToMeConfig]]:
    """The encoders that `config` addresses among the `modules` of a model, with their registry entries and settings.

    Raises:
        UnsupportedArchitectureError: if nothing in the model can be rewritten.
        ValueError: if `config.parts` names a part that the model does not have, or that cannot merge.
    """
    model = modules[0]
    name = type(model).__name__
    encoders: list[tuple[nn.Module, Architecture]] = []
    refusals: dict[str, str] = {}
    known = {module_class for module_class in dict.fromkeys(map(type, modules)) if is_known(module_class)}
    for module in modules:
        if type(module) not in known:
            continue
        refusal = find_refusal(module)
        if refusal is not None:
            refusals.setdefault(refusal.part, refusal.reason)
        elif (architecture := find_architecture(module)) is not None:
            encoders.append((module, architecture))
    if not encoders:
        reasons = "".join(f" Its {part} part cannot merge: {reason}." for part, reason in refusals.items())
        reasons += explain(model)
        if not reasons and getattr(model, "config", None) is not None:
            reasons = f" Model type {getattr(model.config, 'model_type', '')!r} is not supported yet."
        raise UnsupportedArchitectureError(
            f"{name} has no encoder that optimum_pitome can rewrite.{reasons} {supported_message()}"
        )
    available = sorted({architecture.part for _, architecture in encoders})
    for part in config.parts or ():
        if part in available:
            continue
        accepted = f"Parts of this model that can merge: {', '.join(map(repr, available))}."
        if part in refusals:
            raise ValueError(f"The part {part!r} of {name} cannot merge: {refusals[part]}. {accepted}")
        hint = f" Did you mean {close!r}?" if (close := similar(part, available)) else ""
        raise ValueError(
            f"{name} has no part {part!r}.{hint} {accepted}{explain(model)} If a setting was meant: "
            f"{', '.join(FIELDS)}."
        )
    default = "vision" if "vision" in available else None
    selected = []
    for encoder, architecture in encoders:
        settings = config.for_part(architecture.part)
        if config.parts is None and default is not None and architecture.part != default:
            settings = None
        if settings is not None:
            selected.append((encoder, architecture, settings))
    _check_protected_ids(config, selected)
    _check_picture_size(config, selected)
    return selected


def _check_protected_ids(config: PiToMeConfig, selected: list[tuple[nn.Module, Architecture, PiToMeConfig]]) -> None:
    """Refuses `protect_token_ids` where nothing could be found by it."""
    for encoder, architecture, settings in selected:
        own = "protect_token_ids" in (config.parts or {}).get(architecture.part, ())
        if architecture.reads_token_ids or not settings.protect_token_ids:
            continue
        if own or not any(other.reads_token_ids for _, other, _ in selected):
            raise ValueError(
                f"protect_token_ids={settings.protect_token_ids!r}: {type(encoder).__name__} (the part "
                f"{architecture.part!r}) reads no token ids, so there is nothing to find them in. Leave the field "
                "out, or give it to a part that reads text: parts={'text': {'protect_token_ids': [...]}}."
            )


def _check_picture_size(config: PiToMeConfig, selected: list[tuple[nn.Module, Architecture, PiToMeConfig]]) -> None:
    """Refuses `image_size` where no pictures are read, or they would be smaller than a patch."""
    readers = [architecture.reads_pictures(architecture.config_of(encoder)) for encoder, architecture, _ in selected]
    for (encoder, architecture, settings), reads in zip(selected, readers):
        if settings.image_size is None:
            continue
        own = "image_size" in (config.parts or {}).get(architecture.part, ())
        if not reads and (own or not any(readers)):
            raise ValueError(
                f"image_size={settings.image_size!r}: {type(encoder).__name__} (the part {architecture.part!r}) reads "
                "no pictures of one size, which operations could be counted at. Leave the field out."
            )
        encoder_config = architecture.config_of(encoder)
        special = architecture.count_prefix(encoder_config) + architecture.count_suffix(encoder_config)
        if reads and architecture.count_tokens(encoder_config, settings.image_size) <= special:
            raise ValueError(
                f"image_size={settings.image_size!r}: {type(encoder).__name__} (the part {architecture.part!r}) makes "
                f"no patch of so small a picture (patch_size={getattr(encoder_config, 'patch_size', None)}). Give the "
                "pixels of a side."
            )


def parts_of(model: nn.Module) -> set[str]:
    """The parts of `model`, also those that cannot merge."""
    found = (find(module) for module in model.modules() for find in (find_architecture, find_refusal))
    return {one.part for one in found if one is not None}


def settings_of(model: nn.Module) -> PiToMeConfig | None:
    """The settings that `model` merges with, as its configuration has them, or else its encoders; `None` if it is
    dense."""
    found = {one.pitome.architecture.part: one.pitome.config for one in rewritten_encoders(model)}
    entry = getattr(getattr(model, "config", None), "pitome", None)
    if not found or entry is not None:
        return PiToMeConfig.from_value(entry) if found else None
    return PiToMeConfig(parts=found) if len(parts_of(model)) > 1 else next(iter(found.values()))
