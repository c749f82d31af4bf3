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

"""The architectures that can be rewritten: a table, one entry per encoder class."""

from __future__ import annotations

import copyreg
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig

from .architecture import Architecture
from .attention import route_attention, wrap_attention
from .entry_checks import check_entry, checked_settings
from .forward import wrap_forward
from .layer import MergingLayer
from .requirements import supported
from .signatures import parameters
from .whole_layer import WholeLayer, whole_layer


_VAR_POSITIONAL, _VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class UnsupportedArchitectureError(ValueError):
    """The model has no part that can be rewritten, or a part that changed upstream."""


def check_signatures(architecture: Architecture) -> None:
    """Compares an entry with the installed transformers.

    Raises:
        UnsupportedArchitectureError: if a signature is not the one that this entry was written for.
    """
    layer_class = architecture.layer_class
    own_forward = inspect.unwrap(layer_class.forward) is not MergingLayer.forward  # transformers wraps those of layers
    if issubclass(layer_class, WholeLayer):
        _check_whole(architecture.dense_layer_class)
    else:
        _check_signature(architecture.dense_layer_class, layer_class, "forward" if own_forward else "attention_half")
    for dense_class, attention_class in architecture.attention_classes.items():
        # Replaced as a whole: an argument that ours does not know would be lost.
        _check_signature(dense_class, attention_class, "forward", exact=True)


def _check_whole(dense_class: type[nn.Module]) -> None:
    """Of a layer that runs as a whole, whatever its parameters are called: that the first can be the tokens."""
    found = parameters(dense_class.forward)
    if not (found and found[0].kind < _VAR_POSITIONAL and found[-1].kind is _VAR_KEYWORD):  # kinds are in their order
        raise UnsupportedArchitectureError(
            f"{dense_class.__name__}.forward takes ({', '.join(map(_name, found))}), and to merge after the whole "
            f"layer, {dense_class.__name__}.forward has to take the tokens as its first parameter, and **kwargs, "
            "which it passes on to its attention. Let it take them, or write a MergingLayer."
        )


def _check_signature(dense_class: type[nn.Module], our_class: type, method: str, exact: bool = False) -> None:
    """Compares the parameters that a method of ours reads with those of the class's own `forward`: number, kind and
    names. The rest is passed through, so it may differ, unless `exact`."""
    found, read = parameters(dense_class.forward), parameters(inspect.unwrap(getattr(our_class, method)))
    takes_more = any(parameter.kind is _VAR_KEYWORD for parameter in found)
    # Where merging needs keyword arguments, a layer that does not pass them on is run in its two halves.
    complete = exact or takes_more or not our_class.passes_kwargs
    if exact and not takes_more:
        # A forward that takes none gets ours, which the layer or a module between hands over.
        read = [parameter for parameter in read if parameter.kind is not _VAR_KEYWORD]
    if not exact:
        read = [parameter for parameter in read if parameter.kind not in (_VAR_POSITIONAL, _VAR_KEYWORD)]
    shared = found if exact else found[: len(read)]
    if [(p.name, p.kind) for p in shared] != [(p.name, p.kind) for p in read] or not complete:
        takes = f"({', '.join(map(_name, found))})"
        expects = f"({', '.join([*map(_name, read), *([] if exact else ['**kwargs'])])})"
        if our_class.__module__ not in _built_in.modules.values():
            raise UnsupportedArchitectureError(
                f"{dense_class.__name__}.forward takes {takes}, but {method} of {our_class.__module__}."
                f"{our_class.__qualname__}, which was registered for it, is made for {expects}. Give {method} the "
                f"parameters of {dense_class.__name__}.forward, with the same names in the same order"
                + ("" if complete else f"; and {dense_class.__name__}.forward has to take **kwargs and pass them on")
                + "."
            )
        raise UnsupportedArchitectureError(
            f"{dense_class.__name__}.forward of transformers {transformers.__version__} takes {takes}, but "
            f"optimum_pitome rewrites it as {expects}. "
            "Merging there could give wrong results, so the model was left dense. This optimum_pitome was made for "
            f"{supported('transformers')}: install another version of these, or a newer optimum_pitome. "
            f"{supported_message()}"
        )


def _name(parameter: inspect.Parameter) -> str:
    return {_VAR_POSITIONAL: "*", _VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name


_ARCHITECTURES: dict[type[nn.Module], Architecture] = {}


def _reduce(architecture: Architecture) -> tuple:
    # By reference, as a class pickles, with what a host adapted: a rewritten model that is unpickled elsewhere finds
    # that registry's entry. With the layer's class comes the module that registers it.
    entry = _architecture_of(architecture.encoder_class)
    adapted = {name: value for name, value in vars(architecture).items() if value != getattr(entry, name)}
    return _unpickle_architecture, (architecture.encoder_class, architecture.layer_class, adapted)


def _unpickle_architecture(
    encoder_class: type[nn.Module], layer_class: type[MergingLayer], adapted: dict[str, Any]
) -> Architecture:
    return replace(_architecture_of(encoder_class), **adapted)


copyreg.pickle(Architecture, _reduce)


@dataclass(frozen=True)
class _BuiltIn:
    """What is known of the built-in families before any of them is imported.

    Attributes:
        modules (`Mapping[str, str]`): module of transformers that defines an encoder → module that registers it.
        model_types (`tuple[str, ...]`): of the models that can merge, for messages.
        explain (`Callable[[PreTrainedConfig], str]`): sentences that say why a model of a configuration cannot merge.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    model_types: tuple[str, ...] = ()
    explain: Callable[[Any], str] = lambda config: ""


_built_in = _BuiltIn()


def locate_families(modules: Mapping[str, str], model_types: tuple[str, ...], explain: Callable[[Any], str]) -> None:
    """Tells the registry where the built-in families are: each is imported when a model needs it."""
    global _built_in
    _built_in = _BuiltIn(modules, model_types, explain)


def register_architecture(
    encoder_class: type[nn.Module],
    layer_class: type[nn.Module],
    *,
    num_prefix_tokens: int | Callable[[Any], int] | None = None,
    exist_ok: bool = False,
    **settings: Any,
) -> Architecture:
    """Lets models that contain `encoder_class` be rewritten. See [`Architecture`] for the settings.

    Example:

    ```python
    class MyLayer(MergingLayer, modeling_my.MyLayer):        # the same name as the original
        def attention_half(self, hidden_states, attention_mask, **kwargs):
            return hidden_states + self.attention(self.norm1(hidden_states), attention_mask, **kwargs)[0]

        def mlp_half(self, hidden_states):
            return hidden_states + self.mlp(self.norm2(hidden_states))


    register_architecture(
        modeling_my.MyEncoder, MyLayer, layers="layers", attention="attention", num_prefix_tokens=1
    )
    ```

    Without the two halves it works, too: with the layer's own class in place of a [`MergingLayer`], tokens merge after
    the whole layer, whose MLP then runs on all of them. The layer has to take the tokens first, under any name, to
    return a tensor, and to pass its keyword arguments on to its attention.

    ```python
    register_architecture(modeling_my.MyEncoder, modeling_my.MyLayer, layers="layers", num_prefix_tokens=1)
    ```

    Args:
        encoder_class (`type`): the module that runs the layers.
        layer_class (`type`): a [`MergingLayer`], or the layer's own class.
        exist_ok (`bool`, *optional*, defaults to `False`):
            Whether to replace an earlier entry for the class, as when the cell of a notebook runs again. Built-in
            entries stay.

    Raises:
        ValueError: if the class is registered already, or a setting is not what the rewriting needs.
    """
    if nn.Module in (bases := getattr(layer_class, "__mro__", ())) and MergingLayer not in bases:
        layer_class = whole_layer(layer_class)
    settings = checked_settings(encoder_class, {"num_prefix_tokens": num_prefix_tokens, **settings})
    architecture = Architecture(encoder_class, layer_class, **settings)
    import_family(encoder_class)
    earlier = _ARCHITECTURES.get(encoder_class)
    if earlier is not None:
        name = f"{encoder_class.__module__}.{encoder_class.__qualname__}"
        if earlier.layer_class.__module__ in _built_in.modules.values():
            raise ValueError(f"{name} is already registered. It is built in, so it cannot be replaced.")
        if not exist_ok:
            raise ValueError(f"{name} is already registered. Pass exist_ok=True to replace that entry.")
    check_entry(architecture)
    wrap_forward(encoder_class, architecture.runs)
    for dense_class, attention_class in architecture.attention_classes.items():
        wrap_attention(attention_class, dense_class)
    if architecture.attention_interface:
        route_attention(architecture.dense_layer_class.__module__)
    _ARCHITECTURES[encoder_class] = architecture
    return architecture


def import_family(module_class: type[nn.Module]) -> bool:
    """Imports the built-in family (which may be what runs now) that a class belongs to, if there is one."""
    family = _built_in.modules.get(module_class.__module__)
    if family is not None:
        importlib.import_module(family)
    return family is not None


@dataclass(frozen=True)
class Refusal:
    """A part that cannot merge: its name in `PiToMeConfig.parts`, and the reason as the end of a sentence."""

    part: str
    reason: str


_REFUSALS: dict[type[nn.Module], Refusal] = {}


def refuse_architecture(encoder_class: type[nn.Module], part: str, reason: str) -> None:
    """Records why `encoder_class` cannot merge: `reason` ends the sentence "The part ... cannot merge: "."""
    _REFUSALS[encoder_class] = Refusal(part, reason)


def find_refusal(module: nn.Module) -> Refusal | None:
    """Why `module` cannot merge, if that is known."""
    architecture = find_architecture(module)
    if architecture is not None:
        reason = None if architecture.refuses is None else architecture.refuses(module)
        return None if reason is None else Refusal(architecture.part, reason)
    return _refusal_of(type(module))


def _refusal_of(module_class: type[nn.Module]) -> Refusal | None:
    return next((_REFUSALS[base] for base in module_class.__mro__ if base in _REFUSALS), None)


def is_known(module_class: type[nn.Module]) -> bool:
    """Whether modules of a class can be rewritten, or are known to be none that can."""
    return _architecture_of(module_class) is not None or _refusal_of(module_class) is not None


def find_architecture(module: nn.Module) -> Architecture | None:
    """The entry for `module`, if it is an encoder that can be rewritten."""
    return _architecture_of(type(module))


def encoder_configs(model: nn.Module) -> list[Any]:
    """The configurations of the encoders in `model`, or what stands for them."""
    found = ((module, find_architecture(module)) for module in model.modules())
    return [architecture.config_of(module) for module, architecture in found if architecture is not None]


def _architecture_of(module_class: type[nn.Module]) -> Architecture | None:
    for base in module_class.__mro__:
        import_family(base)
        if base in _ARCHITECTURES:
            return _ARCHITECTURES[base]
    return None


def explain(model: nn.Module) -> str:
    """Sentences that say why `model` cannot merge, each with a space before it; "" if nothing is known."""
    config = getattr(model, "config", None)
    return _built_in.explain(config) if isinstance(config, PreTrainedConfig) else ""


def supported_message() -> str:
    """What can be rewritten, for error messages."""
    added = sorted(
        architecture.encoder_class.__name__
        for architecture in _ARCHITECTURES.values()
        if architecture.encoder_class.__module__ not in _built_in.modules
    )
    return (
        f"Supported model types: {', '.join(_built_in.model_types)}; others, such as gemma3, have one of these inside"
        + (f"; registered here: {', '.join(added)}" if added else "")
        + " (docs/models.md). To add one, see optimum_pitome.register_architecture."
    )
