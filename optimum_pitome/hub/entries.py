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

"""Which settings count when a model is loaded: those of the keyword, else of the configuration, else of its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedConfig

from ..configuration.config import PiToMeConfig, configurations
from ..configuration.sources import settings_are
from . import UNSET


def entries(config: Any) -> list[tuple[str, Any]]:
    """The `pitome` entries of a configuration that count, each with the name of the part: its own, or the parts'."""
    if not isinstance(config, PreTrainedConfig):
        return []  # none, or a path
    found = [(name, part.pitome) for name, part in configurations(config) if hasattr(part, "pitome")]
    return found[:1] if found and found[0][0] == "" else found


def check_values(pitome: Any, config: Any = None) -> None:
    """Refuses values that no model accepts."""
    for name, value in entries(config) if pitome is UNSET else [("", pitome)]:
        with _explaining(name, pitome, config):
            PiToMeConfig.from_value(value)


def check_before_weights(pitome: Any, config: Any, preview: Callable[[Any], Any], **hub: Any) -> None:
    """Refuses what [`rewrite`] would refuse when the weights have been read."""
    settings = [pitome] if pitome is not UNSET else [entry for _, entry in entries(config)]
    if all(value is None or value is False for value in settings):
        return
    check_values(pitome, config)
    model = preview(config)
    if model is not None:
        plan(model, pitome, **hub)


def plan(model: Any, pitome: Any, **hub: Any) -> None:
    """Runs all the checks of [`rewrite`], which tells what there is to tell."""
    from ..apply import survey
    from ..modeling.notes import looking_ahead

    for name, part, value in _wanted(model, pitome):
        settings = PiToMeConfig.from_value(value)
        if settings is not None:
            with _explaining(name, pitome, model.config), looking_ahead():
                survey(part, _for_pictures(part, settings, pitome, hub))


def rewrite(model: Any, pitome: Any, **hub: Any) -> None:
    """Rewrites a loaded model as asked: by the keyword, else by its configuration. `hub` says how to look for the
    tokenizer of a model that predicts masked tokens, and for the image processor where there is a budget."""
    for name, part, value in _wanted(model, pitome):
        from ..apply import rewrite_model  # not for a dense model

        with _explaining(name, pitome, model.config):
            settings = PiToMeConfig.from_value(value)
            rewrite_model(part, None if settings is None else _for_pictures(part, settings, pitome, hub), **hub)


def _for_pictures(model: Any, settings: PiToMeConfig, pitome: Any, hub: dict[str, Any]) -> PiToMeConfig:
    """`settings`; where they came by the keyword, a budget gets the size of the pictures that it is for. What was
    saved stays what it is."""
    if pitome is UNSET:
        return settings
    from ..modeling.pictures import with_picture_size

    return with_picture_size(model, settings, **hub)


def _wanted(model: Any, pitome: Any) -> list[tuple[str, Any, Any]]:
    """What is to be rewritten: name of the part ("" for the whole model), module, and settings."""
    if pitome is not UNSET:
        return [("", model, pitome)]
    found = entries(model.config)
    if [name for name, _ in found] == [""]:
        return [("", model, model.config.pitome)]
    if not found:
        return []
    from ..modeling.registry import find_architecture  # not for a dense model

    parts = list(_parts_with_entries(model))
    # Modules may have a copy of a tower's configuration without being one (the layers of CLIPSeg's decoder).
    return [part for part in parts if any(map(find_architecture, part[1].modules()))] or parts


def _parts_with_entries(module: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The outermost modules inside `module` whose configuration has an entry."""
    for name, child in module.named_children():
        entry = getattr(vars(child).get("config"), "pitome", None)
        if entry is not None and entry is not False:
            yield f"{prefix}{name}", child, entry
        else:
            yield from _parts_with_entries(child, f"{prefix}{name}.")


@contextlib.contextmanager
def _explaining(part: str, pitome: Any, config: Any) -> Iterator[None]:
    """Tells the reader of an error whose settings these are, where that can be doubted, and what to do."""
    try:
        yield
    except ValueError as error:
        with settings_are(*_whose(part, pitome, config, error)):
            raise


def _whose(part: str, pitome: Any, config: Any, error: ValueError) -> tuple[str, str]:
    """Where settings came from, and what to do about an error in them; empty where the caller wrote them down."""
    origin = pitome.origin if isinstance(pitome, PiToMeConfig) else ""
    if pitome is UNSET:
        of = f"the configuration of the model's part {part!r}" if part else "the model's configuration"
        origin = f"the `pitome` entry in {of}"
    elif not origin:
        return "those that were passed, not the `pitome` entry in the configuration" if entries(config) else "", ""
    from ..modeling.registry import UnsupportedArchitectureError

    register = ""
    if isinstance(error, UnsupportedArchitectureError):
        register = " If a module of yours registers the architecture, import it before loading."
    return origin, f"{register} pitome=False loads the dense model."
