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

"""The fields of [`PiToMeConfig`], each declared once, and how a dict that names them is understood.

Imports nothing heavy: the command line checks its options here before it imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any

from ..methods import ALGORITHMS, ENERGIES, PROFILES, SHORTENING
from .checks import (
    FORMAT_VERSION,
    MAX_COUNT,
    MAX_ENTRIES,
    Setting,
    check_bool,
    check_budget,
    check_count,
    check_integers,
    check_number,
    check_path,
    check_picture_size,
    check_version,
    declare,
    is_number,
    is_text,
    show,
    similar,
)
from .keys import LOADING_KEYS, without_foreign_keys
from .sources import about_part


#: What a matching that halves the tokens at most can keep.
MIN_RATIO = 0.5

_MAX_KEYS = _MAX_PART_NAME = 100  # more keys than any dict of settings has, and letters than a part's name
_TOKEN_IDS = "token ids, whole numbers of at least 0, such as [tokenizer.mask_token_id]"
_PART_SETTINGS = "Expected a ratio, or a dict such as {'ratio': 0.9}."


def check_parts(name: str, value: Any) -> dict[str, dict[str, Any]]:
    """Each part's settings, only those that were given: the rest comes from the fields that all parts share."""
    accepted = "a dict from part to settings, such as {'vision': 0.9, 'text': {'ratio': 0.8}}"
    if not isinstance(value, Mapping) or not 0 < len(value) <= _MAX_KEYS:
        raise ValueError(f"{name}={show(value)}: expected {accepted}, or None for the default.")
    checked = {}
    for part, settings in value.items():
        if not isinstance(part, str) or not 0 < len(part) <= _MAX_PART_NAME or not is_text(part):
            raise ValueError(f"{name}={show(value)}: {show(part)} is not a part's name. Expected {accepted}.")
        if settings is None or settings is False:
            continue
        with about_part(part):
            checked[part] = _settings_of_a_part(settings)
    if not checked:
        raise ValueError(f"{name}={show(value)} leaves every part dense: expected {accepted}, or None.")
    return checked


def _settings_of_a_part(value: Any) -> dict[str, Any]:
    if is_number(value):
        value = {"ratio": value}
    elif hasattr(type(value), "to_pitome_dict"):
        value = value.to_pitome_dict()
    elif not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not understood. {_PART_SETTINGS}")
    fields = fields_of(value, may_name_parts=False)
    for name in ("parts", "base_model_name_or_path"):
        if fields.get(name) is not None:
            raise ValueError(f"{name}={show(fields[name])}: a part has no {name} of its own.")
    names = [name for name in fields if name in FIELDS and FIELDS[name].scope == "part"]
    check_budget(own := {name: FIELDS[name].checked(fields[name]) for name in names})
    return own


@dataclasses.dataclass
class Settings:
    """The one declaration of the fields: name, type, default, and a [`Setting`]. Their order is that of arguments."""

    ratio: float | list[float] | None = declare(
        "Fraction of the mergeable tokens that each merging layer keeps, in [0.5, 1]. A list gives one per layer of "
        "the model (or one per entry of `layers`). 1.0 is the dense model. 0.9 where no budget is given instead: "
        "`flops_ratio` or `num_tokens`.",
        functools.partial(check_number, low=MIN_RATIO, high=1.0, listable=True),
        usual=0.9,
    )
    layers: list[int] | None = declare(
        "Indices of the layers that merge, negative ones from the end: all, or (texts with a `ratio`) the first 3.",
        check_integers("layer", "layer indices such as [0, 1, 2]", -MAX_ENTRIES, MAX_ENTRIES),
    )
    min_tokens: int | None = declare(
        "So many of a sample's mergeable tokens stay in any case: short texts are left as they are, and long ones "
        "never get shorter than this. By default there is no such floor.",
        check_count,
    )
    algorithm: str | None = declare(
        'How tokens are matched: `"pitome"`, `"pitome_unprotected"` (energy-ordered matching of the released code: '
        'any token may merge), `"pitome_halves"` (its matching for text: the more redundant half joins the other), '
        '`"pitome_random_split"` (any half), `"mutual"` (those that are each other\'s nearest first), `"tome"` '
        '(alternating positions; the default of texts with a budget, but for labels of every token), `"tofu"` (as '
        '`"tome"`, but early layers keep one of two tokens and later ones the norm), `"dct"` (no matching: the lowest '
        'frequencies of the sequence), `"diffrate"` (by the attention of the class token: half of what goes is '
        'dropped; no rates are learned), or `"random"`.',
        choices=ALGORITHMS,
        register="optimum_pitome.register_algorithm",
        usual="pitome",
    )
    energy: str | None = declare(
        'How redundant a token is: `"paper"` (equation 4), `"elu"`, `"gaussian"` (the released code\'s), or '
        '`"nearest"` (similarity to the nearest other token).',
        choices=ENERGIES,
        register="optimum_pitome.register_energy",
        usual="nearest",
        read_by=lambda algorithm, energy: algorithm.reads_energy,
    )
    metric: str | None = declare(
        'What is compared: `"keys"` (mean over the heads) or `"hidden_states"` (the default for texts).',
        choices=("keys", "hidden_states"),
        usual="keys",
        read_by=lambda algorithm, energy: algorithm.comparisons is not None,
    )
    margin: float | list[float] | None = declare(
        "Margin of the energy, below 1, one for all or one per layer. By default `0.9 - 0.9 * i / L` (equation 4).",
        functools.partial(check_number, low=-1.0, high=1.0, listable=True, open_end=True),
        read_by=lambda algorithm, energy: algorithm.reads_energy and energy.has_margin,
    )
    alpha: float | None = declare(
        "Scale of the energy below the margin.",
        functools.partial(check_number, low=0.0, high=math.inf, open_end=True),
        usual=1.0,
        read_by=lambda algorithm, energy: algorithm.reads_energy and energy.has_margin,
    )
    importance: float | list[float] | None = declare(
        "Exponent of the class token's attention, which weighs distances between tokens, in [0, 1], for all or per "
        "layer: what it does not look at merges first. 0 (the default with another algorithm or energy): left out. "
        "Texts with a budget, but for labels of every token: 0.75.",
        functools.partial(check_number, low=0.0, high=1.0, listable=True),
        usual=0.5,
        read_by=lambda algorithm, energy: algorithm.comparisons is not None,
    )
    proportional_attention: bool | None = declare(
        "Add the log size of the merged keys to the attention scores.", check_bool, usual=True
    )
    unmerge: bool | None = declare(
        "Outputs have the original length, each token its group's vector. `False`: they are short.",
        check_bool,
        usual=True,
    )
    preset: str | None = declare(
        '`"official"`: fields that are not set do what the released code of the paper does for the architecture.',
        choices=("official",),
    )
    parts: dict[str, Any] | None = declare(
        'Which parts of a model merge, and how: `{"vision": 0.9, "text": {"ratio": 0.8}}`. What a part leaves open '
        "comes from the other fields; parts that are not named stay dense. By default, in a model that has a vision "
        "part, only that one merges. The names are those of the registered architectures (`Architecture.part`).",
        check_parts,
        scope="model",
    )
    base_model_name_or_path: str | None = declare(
        "Makes this configuration a recipe: a repository without weights that loads that model, rewritten.",
        check_path,
        scope="file",
    )
    format_version: str = declare(
        "Version of this format.",
        # What is written is always the current format: reading an older one upgrades it.
        lambda name, value: FORMAT_VERSION,
        default=FORMAT_VERSION,
        scope="file",
    )
    protect_token_ids: list[int] | None = declare(
        "Ids of tokens of a text that never merge, beside the special tokens. Other tokens merge in their place, as "
        "long as a layer has more of those than it removes. A model that predicts masked tokens adds its mask token "
        "by itself, where its tokenizer is found beside the weights.",
        check_integers("token", _TOKEN_IDS, 0, MAX_COUNT, may_be_empty=True),
    )
    flops_ratio: float | None = declare(
        "A budget in place of `ratio`: N times fewer operations than the dense encoder has, the merging counted, at "
        "`image_size` (of a text encoder: at its longest text). Every layer's ratio follows from it.",
        functools.partial(check_number, low=1.0, high=100.0),  # more than any encoder can save
    )
    num_tokens: int | None = declare(
        "A budget in place of `ratio`: the number of tokens left of an input (an image of `image_size`, a clip), "
        "special tokens not counted. Inside a LLaVA these are the tokens that its language model reads.",
        functools.partial(check_count, low=1),
    )
    random_seed: int | None = declare(
        "Of what an algorithm leaves to chance.", check_count, usual=0, read_by=lambda algorithm, _: algorithm.draws
    )
    profile: str | None = declare(
        "How a budget is spread over the depth: "
        + ", ".join(f'`"{name}"` ({entry.help})' for name, entry in PROFILES.items())
        + ". Layers that are left out of `layers` stay dense.",
        choices=PROFILES,
        usual="balanced",
    )
    multiple_of: int | None = declare(
        "Layers keep a multiple of this, special tokens included: they remove fewer. 8 aligns masks for GPUs.",
        functools.partial(check_count, low=1),
        usual=1,
    )
    image_size: int | list[int] | None = declare(
        "Side of the pictures in pixels, or [height, width], at which a budget is spread and operations are counted. "
        "By default that of the processor beside the weights (found as they are loaded), else the configuration's.",
        check_picture_size,
    )
    weighted_by: str | None = declare(
        'The weight of a token in a mean: its size (`"sizes"`), the attention of the class token (`"attention"`; the '
        'default of texts with a budget, but for labels of every token), or the same for all (`"nothing"`).',
        choices=("sizes", "attention", "nothing"),
        usual="sizes",
        read_by=lambda algorithm, energy: algorithm.takes_means,
    )
    keep_norm: float | None = declare(
        "The norm of a mean: 0 leaves the plain mean, which is shorter than its tokens; 1 gives it their mean norm.",
        functools.partial(check_number, low=0.0, high=1.0),
        usual=0.0,
        read_by=lambda algorithm, energy: algorithm.combine in SHORTENING,
    )


_types = typing.get_type_hints(Settings)
FIELDS: dict[str, Setting] = {  # by name: what is known of it
    declared.name: dataclasses.replace(
        declared.metadata["setting"], name=declared.name, type=_types[declared.name], default=declared.default
    )
    for declared in dataclasses.fields(Settings)
}
_FIELDS_MESSAGE = f"Fields: {', '.join(name for name in FIELDS if name != 'format_version')}."


def fields_of(settings: Mapping[Any, Any], may_name_parts: bool = True) -> dict[str, Any]:
    """The fields that a dict names, their values unchecked. `{"vision": 0.9}` is understood as `parts`. A dict that a
    newer minor version wrote may have others, which come back, too.

    Raises:
        ValueError: for a key that is not a field.
    """
    if len(settings) > _MAX_KEYS:
        raise ValueError(f"pitome={show(settings)} has {len(settings)} keys. {_FIELDS_MESSAGE}")
    given = without_foreign_keys(settings)
    unknown = [key for key in given if key not in FIELDS]
    if unknown and may_name_parts and len(unknown) == len(given) and are_parts(given):
        return {"parts": given}
    newer_minor = check_version(given.get("format_version", FORMAT_VERSION))
    for key in sorted(unknown, key=lambda key: _misspelt(key) is None):  # the most telling first
        if not newer_minor or not isinstance(key, str):
            raise ValueError(unknown_field_message(key, given[key] if may_name_parts else None))
    return given


def unknown_field_message(name: Any, value: Any = None) -> str:
    """Why `name` is refused; `value` may show that somebody meant a part of the model."""
    close, hint = _misspelt(name), ""
    if close:
        hint = f" Did you mean {close!r}?"
    elif name in LOADING_KEYS:
        hint = " It is no setting of merging: pass it to from_pretrained beside pitome."
    elif isinstance(name, str) and (0 < value <= 1 if is_number(value) else _are_settings(value)):
        hint = f" Settings of a part of the model go under parts: {{'parts': {{{show(name)}: {show(value, 100)}}}}}."
    elif isinstance(value, str):
        hint = f" If it is a part of the model, parts[{show(name)}]: {show(value)} is not understood. {_PART_SETTINGS}"
    return f"PiToMeConfig has no field {show(name)}.{hint} {_FIELDS_MESSAGE}"


def are_parts(given: Mapping[Any, Any]) -> bool:
    """Whether a dict without any field goes from part to settings, rather than being a field misspelt."""
    names = all(isinstance(key, str) and key not in LOADING_KEYS and not _misspelt(key) for key in given)
    return names and any(value is None or value is False or _are_settings(value) for value in given.values())


def _misspelt(name: Any) -> str | None:
    begun = [field for field in FIELDS if isinstance(name, str) and "_" in name and field.startswith(name)]
    # A part may be called "audio", which is close to "ratio".
    return begun[0] if begun else similar(name, list(FIELDS), cutoff=0.7)


def _are_settings(value: Any) -> bool:
    return is_number(value) or isinstance(value, Mapping) or hasattr(type(value), "to_pitome_dict")
