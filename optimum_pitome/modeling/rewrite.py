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

"""Rewriting one encoder: planning it, which can fail and changes nothing, and installing what was planned."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.utils import logging

from ..configuration.checks import show
from ..configuration.config import PiToMeConfig
from ..merging import MergeSpec
from .architecture import Architecture, own_class
from .attention import MergingAttention, check_implementation, is_routed
from .forward import restore_length, wrap_forward
from .hosts import remove_hooks
from .layer import MergingLayer
from .notes import warn_once
from .operations import EncoderShape
from .record import LayerRecord
from .registry import UnsupportedArchitectureError, check_signatures
from .resolve import resolve_protected_ids, resolve_specs, resolve_unmerge
from .signatures import parameters
from .token_arguments import LayerArguments


logger = logging.get_logger(__name__)

#: One ratio that leaves less than one in so many tokens is worth a warning.
_FEW = 8


@dataclass
class EncoderRewrite:
    """What was done to one encoder; lives on it as `encoder.pitome`.

    Attributes:
        config ([`PiToMeConfig`]): the user's settings.
        architecture ([`Architecture`]): the registry's entry.
        specs (`tuple[MergeSpec, ...]`): one per layer.
        unmerge (`bool`): whether outputs return to the original length.
        num_prefix_tokens, num_suffix_tokens (`int`): special tokens at the front and at the end.
        protect_token_ids (`tuple[int, ...]`): ids of tokens that never merge: the user's and the mask token's.
        encoder_class (`type`): the encoder's own class, which may be a subclass of the registered one.
        attention_class (`type`): of the modules that attend in its layers.
        layer_arguments ([`LayerArguments`]): what layers are called with.
        is_dense (`bool`): whether nothing is ever merged (ratio 1).
        enabled (`bool`): whether the next forward merges.
        watch (`Callable[[LayerRecord], None]`, *optional*): called by every layer that can merge in the next forward.
    """

    config: PiToMeConfig
    architecture: Architecture
    specs: tuple[MergeSpec, ...]
    unmerge: bool
    num_prefix_tokens: int
    protect_token_ids: tuple[int, ...]
    encoder_class: type[nn.Module]
    attention_class: type[nn.Module]
    num_suffix_tokens: int = 0
    layer_arguments: LayerArguments = field(init=False, repr=False)
    is_dense: bool = field(init=False)
    enabled: bool = field(init=False, default=True)
    watch: Callable[[LayerRecord], None] | None = field(init=False, repr=False, default=None)
    #: Blocks of [`pitome_disabled`] that are open, in all threads.
    disabled_by: int = field(init=False, default=0)

    def __post_init__(self):
        self.layer_arguments = LayerArguments.of(self.architecture, self.attention_class)
        self.is_dense = all(spec.ratio.is_dense for spec in self.specs)
        for encoder_class in self.encoder_class.__mro__:
            wrap_forward(encoder_class, self.architecture.runs)
            if encoder_class is self.architecture.encoder_class:
                break

    def __setstate__(self, state: dict[str, Any]):
        # In the process that unpickles a model, or on a copy: nothing has wrapped its class, no block is open.
        vars(self).update(state, enabled=True, disabled_by=0, watch=None)
        self.__post_init__()

    @property
    def merges(self) -> bool:
        """Whether the next forward merges."""
        return self.enabled and not self.is_dense


def rewritten_encoders(model: nn.Module) -> list[nn.Module]:
    """The encoders in `model` that are rewritten."""
    return rewritten_among(model.modules())


def rewritten_among(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of `modules` that are rewritten encoders."""
    return [module for module in modules if isinstance(vars(module).get("pitome"), EncoderRewrite)]


def plan_rewrite(
    encoder: nn.Module, architecture: Architecture, config: PiToMeConfig, mask_token: int | None = None
) -> EncoderRewrite:
    """All checks for one encoder; changes nothing of it."""
    check_signatures(architecture)
    _check_subclass(type(encoder), architecture)
    layers = _themselves(architecture.find_layers(encoder))
    for layer in layers:
        # FSDP2 gives layers a class of its own. Over ours the settings can still change.
        if not (isinstance(layer, architecture.layer_class) or _is_own(layer, architecture.dense_layer_class)):
            raise UnsupportedArchitectureError(
                f"A layer of {type(encoder).__name__} is a {type(layer).__module__}.{type(layer).__name__}, not the "
                f"{architecture.dense_layer_class.__name__} that optimum_pitome rewrites. Call apply_pitome before "
                "the layers are wrapped or replaced (FSDP, other patches)."
            )
        attention = architecture.find_attention(layer)
        replaced = architecture.attention_classes
        if replaced and not any(_is_own(attention, dense_class) for dense_class in replaced):
            raise UnsupportedArchitectureError(
                f"The attention of a layer of {type(encoder).__name__} is a {type(attention).__module__}."
                f"{type(attention).__name__}, not the {' or '.join(known.__name__ for known in replaced)} that "
                "optimum_pitome replaces. Call apply_pitome before other patches."
            )
        uses_interface = bool(replaced) or is_routed(attention)
        if architecture.attention_interface and not (hasattr(attention, "config") and uses_interface):
            raise UnsupportedArchitectureError(
                f"{type(attention).__name__} does not use transformers' attention interface. Let it call "
                "ALL_ATTENTION_FUNCTIONS.get_interface(...), as models of transformers do, or give "
                "register_architecture an attention_class, a subclass of MergingAttention: see "
                "docs/adding_a_family.md."
            )
    settings = architecture.config_of(encoder)
    own_masks = sorted(set(getattr(settings, "layer_types", None) or ()) - {"full_attention"})
    own_masks = [] if architecture.window is not None else own_masks
    if own_masks:
        raise UnsupportedArchitectureError(
            f"{type(encoder).__name__} has layers with attention masks of their own ({', '.join(own_masks)}), which "
            "merging would not keep: after a merge only the attention_mask of the encoder counts."
        )
    check_implementation(architecture.implementation_of(encoder), type(encoder).__name__)
    num_prefix_tokens = architecture.count_prefix(settings)
    # Adapters do not count: a schedule stays the same when one is added.
    shape_of = functools.partial(EncoderShape.of, encoder, architecture, image_size=config.image_size, adapters=False)
    specs = resolve_specs(config, architecture, len(layers), architecture.has_class_token(settings), shape_of)
    if isinstance(config.ratio, float) and architecture.part != "text" and architecture.num_tokens is not None:
        left = architecture.count_tokens(settings, config.image_size) - num_prefix_tokens
        _warn_of_few_tokens(config.ratio, specs, left, num_prefix_tokens, encoder)
    unmerge = resolve_unmerge(config, architecture)
    protected = resolve_protected_ids(config, architecture, settings, mask_token)
    classes = type(encoder), type(architecture.find_attention(layers[0]))
    suffix = architecture.count_suffix(settings)
    return EncoderRewrite(config, architecture, specs, unmerge, num_prefix_tokens, protected, *classes, suffix)


def _themselves(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """`layers`, without what `torch.compile` (or accelerate's `compile_regions`) put around each."""
    return [getattr(layer, "_orig_mod", layer) for layer in layers]


def _is_own(module: nn.Module, dense_class: type[nn.Module]) -> bool:
    """Whether `module` is of `dense_class`, or of a class that rewrites it: that of the entry, or of one before it."""
    found = type(module)
    for mixin in (MergingLayer, MergingAttention):
        if issubclass(found, mixin) and found.__name__ == dense_class.__name__:  # otherwise FSDP2's own, over ours
            found = own_class(found, mixin)
    return found is dense_class


def _warn_of_few_tokens(
    ratio: float, specs: tuple[MergeSpec, ...], num_tokens: int, num_special: int, encoder: nn.Module
) -> None:
    """Says where one ratio for all layers of a deep encoder leaves next to nothing."""
    left = num_tokens
    for spec in specs:
        left -= spec.ratio.num_removed(left, num_special)
    if left < num_tokens / _FEW:
        warn_once(
            logger,
            f"ratio={ratio:g} in every merging layer of {type(encoder).__name__} ({len(specs)} layers) leaves {left} "
            f"of {num_tokens} tokens. Use a budget, which fits every depth: pitome={{'flops_ratio': 1.8}}.",
        )


def _check_subclass(encoder_class: type[nn.Module], architecture: Architecture) -> None:
    """Refuses a `forward` that the state of a forward could not pass through, and one that would not run."""
    known_class = architecture.encoder_class
    if encoder_class.forward is known_class.forward and architecture.runs.get("forward", known_class) is None:
        if not _takes_kwargs(known_class):
            raise UnsupportedArchitectureError(
                f"{known_class.__name__}.forward takes no **kwargs, so what merging needs cannot reach the layers. "
                "Let it take **kwargs and pass them on to each layer, or give register_architecture a forward= that "
                "does so and runs in its place where tokens merge."
            )
    for base in encoder_class.__mro__[: encoder_class.__mro__.index(known_class)]:
        replaced = [name for name, run in architecture.runs.items() if run is not None and name in vars(base)]
        if replaced:
            raise UnsupportedArchitectureError(
                f"{base.__name__} is a {known_class.__name__} with a {replaced[0]} of its own, and where tokens merge "
                f"optimum_pitome replaces {known_class.__name__}.{replaced[0]}. Move what it adds elsewhere (into the "
                "model around it, say), or register it as an encoder of its own with register_architecture."
            )
        if "forward" not in vars(base):
            continue
        if not _takes_kwargs(base):
            raise UnsupportedArchitectureError(
                f"{base.__name__} is a {known_class.__name__} with a forward of its own that takes no **kwargs, so "
                "what merging needs cannot reach the layers. Let it take **kwargs and pass them on (to "
                "super().forward, or to each layer)."
            )


def _takes_kwargs(module_class: type[nn.Module]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters(module_class.forward))


def install_rewrite(encoder: nn.Module, rewrite: EncoderRewrite) -> None:
    """Rewrites an encoder. Its settings come last: without them, all else computes what the dense encoder does."""
    architecture = rewrite.architecture
    for index, layer in enumerate(_themselves(architecture.find_layers(encoder))):
        if not isinstance(layer, architecture.layer_class):
            _set_class(layer, architecture.layer_class)
        # Not by setattr, which looks for parameters and modules first, whenever a schedule moves a ratio.
        window = None if architecture.window is None else architecture.window(layer)
        vars(layer).update(pitome_index=index, pitome_spec=rewrite.specs[index], pitome_window=window)
        attention = architecture.find_attention(layer)
        for dense_class, attention_class in architecture.attention_classes.items():
            if _is_own(attention, dense_class):
                _set_class(attention, attention_class)
    if architecture.full_length_at is not None:
        module = encoder.get_submodule(architecture.full_length_at)
        if restore_length not in module._forward_hooks.values():
            module.register_forward_hook(restore_length, with_kwargs=True)
    _mend_dispatched(encoder)
    encoder.pitome = rewrite


def uninstall_rewrites(encoders: list[nn.Module]) -> None:
    """Makes the encoders among some modules dense, from what is found in them: it may be half of a rewriting."""
    for encoder in rewritten_among(encoders):
        del encoder.pitome  # first: from now on all else computes what the dense encoder does
    for module in [module for encoder in encoders for module in encoder.modules()]:
        for mixin in (MergingLayer, MergingAttention):
            if isinstance(module, mixin):
                dense = own_class(type(module), mixin)
                if dense.__name__ == type(module).__name__:  # otherwise FSDP2 put a class of its own over ours
                    _set_class(module, dense)
        for name in ("pitome_index", "pitome_spec", "pitome_window"):
            vars(module).pop(name, None)
        remove_hooks(module, (restore_length,))


def _set_class(module: nn.Module, new_class: type[nn.Module]) -> None:
    module.__class__ = new_class
    _mend_dispatched(module)


def _mend_dispatched(module: nn.Module) -> None:
    """accelerate's dispatch put a wrapper on the instance, which holds on to the `forward` that the class had then."""
    if "_old_forward" in vars(module):
        module._old_forward = type(module).forward.__get__(module)


def check_model(name: str, model: Any) -> None:
    """
    Raises:
        TypeError: if `model`, which the function `name` was given, is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{name} takes a model, got {show(model)}. Load one first: AutoModel.from_pretrained(..., pitome=0.9) "
            "loads and rewrites in one step."
        )
