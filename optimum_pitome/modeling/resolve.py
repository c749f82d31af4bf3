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

"""From the user's configuration and an architecture to one [`MergeSpec`] per layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.utils import logging

from ..configuration.checks import show
from ..configuration.config import PiToMeConfig
from ..configuration.fields import FIELDS, MIN_RATIO
from ..merging import KeepRatio, MergeSpec
from ..methods import ALGORITHMS, ENERGIES, PROFILES
from .architecture import Architecture
from .budget import Budget, fit
from .notes import warn_once
from .operations import EncoderShape


logger = logging.get_logger(__name__)

#: The fields of the configuration that each layer has a value for.
_OF_A_LAYER = [name for name in FIELDS if name in MergeSpec.__dataclass_fields__ and name != "ratio"]


def resolve_specs(
    config: PiToMeConfig,
    architecture: Architecture,
    num_layers: int,
    has_class_token: bool,
    shape_of: Callable[[], EncoderShape],
) -> tuple[MergeSpec, ...]:
    """One [`MergeSpec`] per layer; layers that do not merge have ratio 1.

    Args:
        shape_of (`Callable[[], EncoderShape]`): what a budget is counted on; called where there is one.

    Raises:
        ValueError: if a list does not fit the number of layers, a layer index is out of range, or importance, weights
            or an algorithm that read attention are asked for where no class token attends.
    """
    importance = config.importance if isinstance(config.importance, list) else [config.importance]
    asked = {"importance": any(importance), "weighted_by": config.weighted_by == "attention"}
    for name, instead in (("importance", 0), ("weighted_by", "sizes")):
        if asked[name] and not has_class_token:
            raise ValueError(
                f"{name}={show(getattr(config, name))} weighs tokens by the attention of the class token, and "
                f"{architecture.encoder_class.__name__} has none. Leave {name} out, or set it to {instead!r}."
            )
    if config.preset == "official" and architecture.official is None:
        raise ValueError(
            f"The released code has no {architecture.encoder_class.__name__}, so preset='official' means nothing "
            "here. Use PiToMeConfig.paper(...) or the defaults."
        )
    merging = _merging_layers(config, architecture, num_layers)
    # Where there is a budget, any ratio below 1 stands for the one that follows from it.
    ratios = _per_layer("ratio", MIN_RATIO if config.ratio is None else config.ratio, merging, num_layers)
    own = {name: _per_layer(name, getattr(config, name), merging, num_layers) for name in ("margin", "importance")}
    usual = _usual(config, architecture)
    everywhere = {name: field.usual for name, field in FIELDS.items()}
    measured = {(one["algorithm"], one["energy"]): one for one in (everywhere, usual)}
    chosen = {name: value for name in _OF_A_LAYER if name not in own and (value := getattr(config, name)) is not None}
    official = architecture.official if config.preset == "official" else None
    min_tokens, multiple_of = config.min_tokens or 0, config.multiple_of or FIELDS["multiple_of"].usual
    specs = []
    for index in range(num_layers):
        settings = {**usual, "margin": architecture.defaults.get("margin", 0.9 - 0.9 * index / num_layers)}
        merges = index in merging
        if official is not None:
            settings.update(official(index, num_layers))
            merges = settings.pop("merges", True) and merges
        settings.update(chosen, margin=own["margin"].get(index, settings["margin"]))
        if architecture.layer_class.merges_after is not None:
            settings["after"] = architecture.layer_class.merges_after
        # What reads attention is on where it was measured: a comparison by name should compare what the name says.
        method = measured.get((settings["algorithm"], settings["energy"]), {})
        if own["importance"]:
            settings["importance"] = own["importance"].get(index, 0.0)
        else:
            settings["importance"] = method.get("importance", 0.0) if has_class_token else 0.0
        is_usual = settings["weighted_by"] == "attention" and config.weighted_by is None
        if is_usual and not (settings["importance"] and method.get("weighted_by") == "attention"):
            settings["weighted_by"] = "sizes"
        algorithm = ALGORITHMS[settings["algorithm"]]
        if algorithm.reads_attention and not has_class_token:
            raise ValueError(
                f"algorithm={settings['algorithm']!r} ranks tokens by the attention of the class token, and "
                f"{architecture.encoder_class.__name__} has none. Choose another algorithm."
            )
        settings["combine"] = algorithm.combine_in(index, num_layers)
        ratio = KeepRatio.from_float(ratios[index] if merges else 1.0, min_tokens, multiple_of)
        specs.append(MergeSpec(ratio, **settings))
    _warn_of_unused(config, specs)
    last = max(architecture.reads, default=num_layers)
    if merging and min(merging) >= last:
        warn_once(
            logger,
            f"layers={show(config.layers)} merges nothing that is read: this model takes its features before layer "
            f"{last}. Name lower layers.",
        )
    return tuple(specs) if config.ratio is not None else _fit_budget(config, architecture, tuple(specs), shape_of())


def _usual(config: PiToMeConfig, architecture: Architecture) -> dict[str, Any]:
    """What the fields of a layer are where the user does not say; the margin follows from the depth."""
    defaults = architecture.defaults
    if config.ratio is None and all(getattr(config, name) is None for name in ("energy", "margin", "alpha")):
        defaults = {**defaults, **architecture.budget_defaults}  # who names an energy wants it to be read
    return {name: defaults.get(name, FIELDS[name].usual) for name in _OF_A_LAYER if name != "margin"}


def budget_of(architecture: Architecture, flops_ratio: float | None, num_tokens: int | None) -> Budget:
    """The budget of an encoder.

    Raises:
        ValueError: for a number of tokens where inputs have no size of their own.
    """
    what = "texts" if architecture.part == "text" else "inputs" if architecture.any_length else None
    if num_tokens is not None and what is not None:
        raise ValueError(
            f"num_tokens={num_tokens} is for inputs of one size, and {architecture.encoder_class.__name__} reads "
            f"{what} of any length. Use flops_ratio, and min_tokens for what stays of short {what}."
        )
    return Budget(flops_ratio, num_tokens)


def _fit_budget(
    config: PiToMeConfig, architecture: Architecture, specs: tuple[MergeSpec, ...], shape: EncoderShape
) -> tuple[MergeSpec, ...]:
    """`specs` with the ratios that a budget asks for."""
    budget = budget_of(architecture, config.flops_ratio, config.num_tokens)
    last = max(architecture.reads, default=len(specs))  # what later layers merge reaches nobody
    profile = config.profile or architecture.budget_defaults.get("profile", FIELDS["profile"].usual)
    return fit(shape, specs, PROFILES[profile].removed, budget, last)


def _warn_of_unused(config: PiToMeConfig, specs: list[MergeSpec]) -> None:
    """Says which settings of the user's no layer reads."""
    methods = [(ALGORITHMS[spec.algorithm], ENERGIES[spec.energy]) for spec in specs]
    chosen = [setting for setting in FIELDS.values() if setting.read_by and getattr(config, setting.name) is not None]
    unused = [setting.name for setting in chosen if not any(setting.read_by(*pair) for pair in methods)]
    if unused:
        have, them = ("have", "them") if len(unused) > 1 else ("has", "it")
        energies = [(algorithm, energy) for algorithm, _ in methods for energy in ENERGIES.values()]
        other = any(FIELDS[name].read_by(*pair) for name in unused for pair in energies)
        warn_once(
            logger,
            f"{' and '.join(unused)} {have} no effect here: algorithm={specs[0].algorithm!r} with energy="
            f"{specs[0].energy!r} does not read {them}. Leave {them} out, or choose another algorithm"
            f"{' or energy' if other else ''}.",
        )


def resolve_unmerge(config: PiToMeConfig, architecture: Architecture) -> bool:
    """Whether outputs come back at the original length."""
    usual = architecture.defaults.get("unmerge", FIELDS["unmerge"].usual)
    return usual if config.unmerge is None else config.unmerge


def resolve_protected_ids(
    config: PiToMeConfig, architecture: Architecture, encoder_config: Any, mask_token: int | None
) -> tuple[int, ...]:
    """The ids of the tokens that never merge: the user's own and the mask token.

    Raises:
        ValueError: if the vocabulary has no such id.
    """
    if not architecture.reads_token_ids:
        return ()
    size = getattr(encoder_config, "vocab_size", None)
    for token_id in config.protect_token_ids or ():
        if size is not None and token_id >= size:
            raise ValueError(
                f"protect_token_ids={config.protect_token_ids!r}: the vocabulary of "
                f"{architecture.encoder_class.__name__} has {size} tokens, so {token_id} is out of range (accepted: 0 "
                f"to {size - 1})."
            )
    return tuple(sorted({*(config.protect_token_ids or ()), *(() if mask_token is None else (mask_token,))}))


def _merging_layers(config: PiToMeConfig, architecture: Architecture, num_layers: int) -> dict[int, int]:
    """The merging layers, each with its position in the user's list."""
    layers = config.layers
    one_for_each = isinstance(config.ratio, list) and len(config.ratio) == num_layers
    if layers is None and (config.ratio is None or one_for_each):
        layers = range(num_layers)  # the profile or the list says which of them merge
    elif layers is None:
        default = architecture.defaults.get("layers")
        layers = range(num_layers) if default is None else [index for index in default if index < num_layers]
    for index in layers:
        if not -num_layers <= index < num_layers:
            raise ValueError(
                f"layers={show(list(layers))}: the model has {num_layers} layers, so {index} is out of range "
                f"(accepted: {-num_layers} to {num_layers - 1})."
            )
    merging = {index % num_layers: position for position, index in enumerate(layers)}
    if len(merging) != len(layers):
        raise ValueError(f"layers={show(list(layers))} names a layer of this {num_layers}-layer model twice.")
    return merging


def _per_layer(name: str, value: Any, merging: dict[int, int], num_layers: int) -> dict[int, float]:
    """A field's value for each merging layer; empty where it is not set."""
    if value is None:
        return {}
    if not isinstance(value, list):
        return dict.fromkeys(merging, value)
    if len(value) == num_layers:
        return {index: value[index] for index in merging}
    if len(value) == len(merging):
        return {index: value[position] for index, position in merging.items()}
    raise ValueError(
        f"{name} has {len(value)} entries, but the model has {num_layers} layers"
        + (f" ({len(merging)} of them merge)" if len(merging) != num_layers else "")
        + f". Give one {name} per layer, or a single number."
    )
