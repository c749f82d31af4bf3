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

"""Rewriting models in place: [`apply_pitome`], [`remove_pitome`], [`pitome_disabled`]."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..configuration import PiToMeConfig
from ..merging import MergeSpec
from .attention import check_implementation, eager_function, route, unroute
from .forward import begin_forward, end_forward, restore_length
from .hosts import adapt_architectures, find_hosts
from .mask_token import find_mask_token
from .parts import select_encoders
from .registry import Architecture, UnsupportedArchitectureError, supported_message
from .resolve import resolve_protected_ids, resolve_specs, resolve_unmerge


TAG = "pitome"


@dataclass
class EncoderRewrite:
    """What was done to one encoder; lives on it as `encoder.pitome`.

    Attributes:
        config ([`PiToMeConfig`]): the user's settings.
        architecture ([`Architecture`]): the registry's entry.
        specs (`tuple[MergeSpec, ...]`): one per layer.
        unmerge (`bool`): whether outputs return to the original length.
        num_prefix_tokens (`int`): special tokens at the front.
        protect_token_ids (`tuple[int, ...]`): ids of tokens that never merge: the user's and the mask token's.
        enabled (`bool`): whether the next forward merges.
    """

    config: PiToMeConfig
    architecture: Architecture
    specs: tuple[MergeSpec, ...]
    unmerge: bool
    num_prefix_tokens: int
    protect_token_ids: tuple[int, ...] = ()
    enabled: bool = True

    @property
    def is_dense(self) -> bool:
        return all(spec.ratio.is_dense for spec in self.specs)

    @property
    def merges(self) -> bool:
        """Whether the next forward merges tokens."""
        return self.enabled and not self.is_dense


def apply_pitome(model: nn.Module, config: Any) -> nn.Module:
    """Rewrites `model` in place so that it merges tokens; on a rewritten model, changes the settings.

    The weights, the state dict and the model's class stay as they are. Works before and after `device_map` dispatch.

    Args:
        model (`torch.nn.Module`): a transformers model, or a module that contains one.
        config ([`PiToMeConfig`], `dict` or `float`): the settings, or just the ratio.

    Returns:
        The same model.

    Raises:
        UnsupportedArchitectureError: if the model has nothing that can be rewritten, or changed upstream.
        ValueError: if the settings do not fit the model. The model is then as it was.
        TypeError: if `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"apply_pitome takes a model, got {model!r}. Load one first: AutoModel.from_pretrained(..., pitome=0.9) "
            "loads and rewrites in one step."
        )
    # Who has a model in hand does not expect a download here.
    return rewrite_model(model, config, local_files_only=True)


def rewrite_model(model: nn.Module, config: Any, **hub: Any) -> nn.Module:
    """[`apply_pitome`]; `hub` says how to look for the tokenizer of a model that predicts masked tokens."""
    config = PiToMeConfig.from_value(config)
    if config is None:
        return remove_pitome(model)
    # Everything that can fail comes before the first change.
    encoders = adapt_architectures(model, select_encoders(model, config))
    reads_ids = any(architecture.reads_token_ids for _, architecture, _ in encoders)
    named = any(settings.protect_token_ids for _, _, settings in encoders)
    mask_token = find_mask_token(model, named, **hub) if reads_ids else None
    rewrites = [(encoder, _plan(encoder, *settings, mask_token)) for encoder, *settings in encoders]
    chosen = [encoder for encoder, _ in rewrites]
    for encoder in rewritten_encoders(model):
        if not any(encoder is other for other in chosen):
            _uninstall(encoder)
    for encoder, rewrite in rewrites:
        _install(encoder, rewrite)
    for module, host in find_hosts(model):
        host.install(module)
    _forget_settings(model)
    if hasattr(model, "config"):
        settings = config.to_pitome_dict()
        settings.pop("base_model_name_or_path", None)  # a recipe names the model; the model holds its own weights
        if mask_token is not None:  # the tokenizer may not be there where the model is loaded next
            settings["protect_token_ids"] = sorted({mask_token, *settings.get("protect_token_ids", ())})
        model.config.pitome = settings
    if hasattr(model, "add_model_tags") and TAG not in (getattr(model, "model_tags", None) or []):
        model.add_model_tags([TAG])
    return model


def remove_pitome(model: nn.Module) -> nn.Module:
    """Makes a rewritten model the dense one again, in place and for good; a dense model is left alone."""
    for encoder in rewritten_encoders(model):
        _uninstall(encoder)
    for module, host in find_hosts(model):
        host.uninstall(module)
    _forget_settings(model)
    if TAG in (getattr(model, "model_tags", None) or []):
        model.model_tags = [tag for tag in model.model_tags if tag != TAG]
        if not model.model_tags:
            del model.model_tags  # back to the class's own
    return model


def _forget_settings(model: nn.Module) -> None:
    """Takes `pitome` out of the configurations of `model` and of the models it is made of."""
    for module in model.modules():
        config = vars(module).get("config")
        if hasattr(config, "pitome"):
            del config.pitome


@contextlib.contextmanager
def pitome_disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the block, `model` computes what the dense model computes. Affects every thread that uses the model."""
    before = [(encoder.pitome, encoder.pitome.enabled) for encoder in rewritten_encoders(model)]
    try:
        for rewrite, _ in before:
            rewrite.enabled = False
        yield model
    finally:
        for rewrite, enabled in before:
            rewrite.enabled = enabled


def rewritten_encoders(model: nn.Module) -> list[nn.Module]:
    """The encoders in `model` that are rewritten."""
    return [module for module in model.modules() if isinstance(vars(module).get("pitome"), EncoderRewrite)]


def _plan(
    encoder: nn.Module, architecture: Architecture, config: PiToMeConfig, mask_token: int | None
) -> EncoderRewrite:
    """All checks for one encoder; changes nothing."""
    architecture.check()
    layers = architecture.find_layers(encoder)
    for layer in layers:
        # FSDP2 gives layers a class of its own. Over ours the settings can still change.
        if type(layer) is not architecture.dense_layer_class and not isinstance(layer, architecture.layer_class):
            raise UnsupportedArchitectureError(
                f"A layer of {type(encoder).__name__} is a {type(layer).__module__}.{type(layer).__name__}, not the "
                f"{architecture.dense_layer_class.__name__} that optimum_pitome rewrites. Call apply_pitome before "
                "the layers are wrapped or replaced (FSDP, other patches)."
            )
        attention = architecture.find_attention(layer)
        expected = (architecture.dense_attention_class, architecture.attention_class)
        if architecture.attention_class is not None and type(attention) not in expected:
            raise UnsupportedArchitectureError(
                f"The attention of a layer of {type(encoder).__name__} is a {type(attention).__module__}."
                f"{type(attention).__name__}, not the {architecture.attention_class.__name__} that optimum_pitome "
                "replaces. Call apply_pitome before other patches."
            )
        uses_interface = architecture.attention_class is not None or eager_function(attention) is not None
        if architecture.attention_interface and not (hasattr(attention, "config") and uses_interface):
            raise UnsupportedArchitectureError(
                f"{type(attention).__name__} does not use transformers' attention interface. {supported_message()}"
            )
    check_implementation(encoder.config._attn_implementation, type(encoder).__name__)
    num_prefix_tokens = architecture.num_prefix_tokens(encoder.config)
    specs = resolve_specs(config, architecture, len(layers), num_prefix_tokens)
    protected = resolve_protected_ids(config, architecture, encoder.config, mask_token)
    unmerge = resolve_unmerge(config, architecture)
    return EncoderRewrite(config, architecture, specs, unmerge, num_prefix_tokens, protected)


def _install(encoder: nn.Module, rewrite: EncoderRewrite) -> None:
    architecture = rewrite.architecture
    if "pitome" not in vars(encoder):
        encoder.register_forward_pre_hook(begin_forward, with_kwargs=True)
        encoder.register_forward_hook(end_forward, with_kwargs=True)
        if architecture.full_length_at is not None:
            encoder.get_submodule(architecture.full_length_at).register_forward_hook(restore_length, with_kwargs=True)
    encoder.pitome = rewrite
    for index, layer in enumerate(architecture.find_layers(encoder)):
        if not isinstance(layer, architecture.layer_class):
            _set_class(layer, architecture.layer_class)
        layer.pitome_index = index
        layer.pitome_spec = rewrite.specs[index]
        attention = architecture.find_attention(layer)
        if architecture.attention_class is not None:
            _set_class(attention, architecture.attention_class)
        if architecture.attention_interface:
            route(attention)


def _uninstall(encoder: nn.Module) -> None:
    architecture = encoder.pitome.architecture
    _remove_hooks(encoder)
    if architecture.full_length_at is not None:
        _remove_hooks(encoder.get_submodule(architecture.full_length_at))
    for layer in architecture.find_layers(encoder):
        _set_class(layer, architecture.dense_layer_class)
        del layer.pitome_index, layer.pitome_spec
        attention = architecture.find_attention(layer)
        unroute(attention)
        if architecture.attention_class is not None:
            _set_class(attention, architecture.dense_attention_class)
    del encoder.pitome


def _remove_hooks(module: nn.Module) -> None:
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (begin_forward, end_forward, restore_length)]:
            del hooks[key]
            for with_kwargs in (module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs):
                with_kwargs.pop(key, None)


def _set_class(module: nn.Module, new_class: type[nn.Module]) -> None:
    module.__class__ = new_class
    # accelerate's dispatch put a wrapper on the instance, which holds on to the forward of the class before.
    if "_old_forward" in vars(module):
        module._old_forward = new_class.forward.__get__(module)
