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

"""The fields of [`PiToMeConfig`]: which there are, what each accepts, and how a dict that names them is understood.

Imports nothing heavy: the command line checks its options here before it imports torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..methods import ALGORITHMS, ENERGIES
from .checks import (
    FORMAT_VERSION,
    check_bool,
    check_choice,
    check_count,
    check_layers,
    check_number,
    check_path,
    check_token_ids,
    check_version,
    is_number,
    is_text,
    show,
    similar,
)


METRICS = ("keys", "hidden_states")
PRESETS = ("official",)
#: Parts of composite models, as the built-in families name them. An architecture may name others.
PARTS = ("vision", "text")

#: What a matching that halves the tokens at most can keep.
MIN_RATIO = 0.5

#: More keys than any dict of settings has.
_MAX_KEYS = 100
_MAX_PART_NAME = 100

#: Keys that transformers writes into every configuration. They carry nothing about merging.
TRANSFORMERS_KEYS = frozenset(
    {
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "chunk_size_feed_forward",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "transformers_version",
    }
)
#: Others of them, of which somebody who writes them beside a ratio expects something.
LOADING_KEYS = frozenset({"attn_implementation", "dtype", "torch_dtype"})


def check_parts(name: str, value: Any) -> dict[str, dict[str, Any]] | None:
    """Each part's settings, only those that were given: the rest comes from the fields that all parts share."""
    if value is None:
        return None
    accepted = "a dict from part to settings, such as {'vision': 0.9, 'text': {'ratio': 0.8}}"
    if not isinstance(value, Mapping) or not 0 < len(value) <= _MAX_KEYS:
        raise ValueError(f"{name}={show(value)}: expected {accepted}, or None for the default.")
    checked = {}
    for part, settings in value.items():
        if not isinstance(part, str) or not 0 < len(part) <= _MAX_PART_NAME or not is_text(part):
            raise ValueError(f"{name}={show(value)}: {show(part)} is not a part's name. Expected {accepted}.")
        if settings is None or settings is False:
            continue
        try:
            checked[part] = _settings_of_a_part(settings)
        except ValueError as error:
            raise ValueError(f"{name}[{part!r}]: {error}") from None
    if not checked:
        raise ValueError(
            f"{name}={show(value)} leaves every part dense: expected {accepted}, or None for the default."
        )
    return checked


def _settings_of_a_part(value: Any) -> dict[str, Any]:
    if is_number(value):
        value = {"ratio": value}
    elif _is_config(value):
        value = value.to_pitome_dict()
    elif not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not understood. Expected a ratio, or a dict such as {{'ratio': 0.9}}.")
    fields = fields_of(value, may_name_parts=False)
    for name in ("parts", "base_model_name_or_path"):
        if fields.get(name) is not None:
            raise ValueError(f"{name}={show(fields[name])}: a part has no {name} of its own.")
    return {name: FIELDS[name](name, fields[name]) for name in fields if name not in NOT_OF_A_PART}


#: Field → its check, called with the name and the value. The one list of the fields.
FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "ratio": functools.partial(check_number, low=MIN_RATIO, high=1.0, listable=True),
    "layers": check_layers,
    "min_tokens": check_count,
    "algorithm": functools.partial(check_choice, choices=ALGORITHMS, register="optimum_pitome.register_algorithm"),
    "energy": functools.partial(check_choice, choices=ENERGIES, register="optimum_pitome.register_energy"),
    "metric": functools.partial(check_choice, choices=METRICS),
    "margin": functools.partial(check_number, low=-1.0, high=1.0, listable=True, optional=True, open_end=True),
    "alpha": functools.partial(check_number, low=0.0, high=math.inf, optional=True, open_end=True),
    "importance": functools.partial(check_number, low=0.0, high=1.0, optional=True),
    "proportional_attention": check_bool,
    "unmerge": check_bool,
    "preset": functools.partial(check_choice, choices=PRESETS),
    "protect_token_ids": check_token_ids,
    "parts": check_parts,
    "base_model_name_or_path": check_path,
    # What is written is always the current format: reading an older one upgrades it.
    "format_version": lambda name, value: FORMAT_VERSION,
}
#: Fields that say nothing about a single part.
NOT_OF_A_PART = ("parts", "base_model_name_or_path", "format_version")


def fields_of(settings: Mapping[Any, Any], may_name_parts: bool = True) -> dict[str, Any]:
    """The fields that a dict names, their values unchecked. `{"vision": 0.9}` is understood as `parts`.

    A dict that a newer minor version wrote may have others, which come back, too.

    Raises:
        ValueError: for a key that is not a field.
    """
    if len(settings) > _MAX_KEYS:
        raise ValueError(f"pitome={show(settings)} has {len(settings)} keys. {_fields_message()}")
    given = {
        key: value
        for key, value in settings.items()
        if key not in TRANSFORMERS_KEYS and not (key in LOADING_KEYS and value is None)
    }
    unknown = [key for key in given if key not in FIELDS]
    if unknown and may_name_parts and len(unknown) == len(given) and _are_parts(given):
        return {"parts": given}
    newer_minor = check_version(given.get("format_version", FORMAT_VERSION))
    for key in sorted(unknown, key=lambda key: _misspelt(key) is None):  # the most telling first
        if not newer_minor or not isinstance(key, str):
            raise ValueError(unknown_field_message(key, given[key] if may_name_parts else None))
    return given


def unknown_field_message(name: Any, value: Any = None) -> str:
    """Why `name` is refused; `value` may show that somebody meant a part of the model."""
    close = _misspelt(name)
    if close:
        hint = f" Did you mean {close!r}?"
    elif name in LOADING_KEYS:
        hint = " It is no setting of merging: pass it to from_pretrained beside pitome."
    elif isinstance(name, str) and (isinstance(value, Mapping) or _is_config(value) or _is_ratio(value)):
        hint = f" Settings of a part of the model go under parts: {{'parts': {{{show(name)}: {show(value, 100)}}}}}."
    else:
        hint = ""
    return f"PiToMeConfig has no field {show(name)}.{hint} {_fields_message()}"


def _fields_message() -> str:
    return f"Fields: {', '.join(FIELDS)}."


def _are_parts(given: Mapping[Any, Any]) -> bool:
    """Whether a dict without any field goes from part to settings, rather than being a field misspelt."""
    others = [key for key in given if key not in PARTS]
    if any(not isinstance(key, str) or key in LOADING_KEYS or _misspelt(key) for key in others):
        return False
    return len(others) < len(given) or all(_looks_like_settings(value) for value in given.values())


def _misspelt(name: Any) -> str | None:
    # A part may well be called "audio", which is closer to "ratio" than one would think.
    return similar(name, list(FIELDS), cutoff=0.7)


def _looks_like_settings(value: Any) -> bool:
    return value is None or value is False or is_number(value) or isinstance(value, Mapping) or _is_config(value)


def _is_ratio(value: Any) -> bool:
    return is_number(value) and 0.0 < value <= 1.0


def _is_config(value: Any) -> bool:
    # Without importing PiToMeConfig, and with it transformers.
    return hasattr(type(value), "to_pitome_dict")
