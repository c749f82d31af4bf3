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

"""Rewriting models in place: [`apply_pitome`], [`remove_pitome`], [`pitome_disabled`].

[`survey`] looks at a model once and plans everything, and may fail; [`Survey.install`] does what was planned.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from . import families  # noqa: F401  (tells the registry where the families are)
from .configuration.config import PiToMeConfig, configurations
from .configuration.sources import about_part, settings_are
from .modeling.hosts import Host, adapt_architectures, check_hosts, find_hosts
from .modeling.mask_token import find_mask_token
from .modeling.parts import select_encoders
from .modeling.pictures import with_picture_size
from .modeling.record import LayerRecord
from .modeling.rewrite import (
    EncoderRewrite,
    check_model,
    install_rewrite,
    plan_rewrite,
    rewritten_among,
    rewritten_encoders,
    uninstall_rewrites,
)


TAG = "pitome"


def apply_pitome(model: nn.Module, config: Any) -> nn.Module:
    """Rewrites `model` in place so that it merges tokens; on a rewritten model, changes the settings.

    The weights, the state dict and the model's class stay as they are. Works before and after `device_map` dispatch.

    Args:
        model (`torch.nn.Module`): a transformers model, or a module that contains one.
        config ([`PiToMeConfig`], `dict` or `float`):
            The settings, or just the ratio. A budget without `image_size` is for pictures of the size that the image
            processor makes, if one lies beside the weights that the model was loaded from.

    Returns:
        The same model.

    Raises:
        UnsupportedArchitectureError: if the model has nothing that can be rewritten, or changed upstream.
        ValueError: if the settings do not fit the model. The model is then as it was.
        TypeError: if `model` is not a module.
    """
    check_model("apply_pitome", model)
    settings = PiToMeConfig.from_value(config)
    with settings_are("" if settings is None else settings.origin):
        if settings is not None:
            settings = with_picture_size(model, settings, local_files_only=True)
        # Who has a model in hand does not expect a download here.
        return rewrite_model(model, settings, local_files_only=True)


def rewrite_model(model: nn.Module, config: Any, **hub: Any) -> nn.Module:
    """[`apply_pitome`]; `hub` says how to look for the tokenizer of a model that predicts masked tokens."""
    config = PiToMeConfig.from_value(config)
    if config is None:
        return remove_pitome(model)
    survey(model, config, hub).install()
    return model


@dataclass(frozen=True)
class Survey:
    """What one look at a model found, and what it is to become.

    Attributes:
        model (`nn.Module`), config ([`PiToMeConfig`]): what was asked.
        modules (`list[nn.Module]`): all of the model's.
        hosts (`list[tuple[nn.Module, Host]]`): modules around encoders that change with them.
        rewrites (`list[tuple[nn.Module, EncoderRewrite]]`): the encoders that are to merge, and how.
        before (`list[tuple[nn.Module, EncoderRewrite]]`): the encoders that merge now, and how.
        mask_token (`int`, *optional*): its id, where the model predicts masked tokens.
    """

    model: nn.Module
    config: PiToMeConfig
    modules: list[nn.Module]
    hosts: list[tuple[nn.Module, Host]]
    rewrites: list[tuple[nn.Module, EncoderRewrite]]
    before: list[tuple[nn.Module, EncoderRewrite]]
    mask_token: int | None

    def install(self) -> None:
        """Rewrites the model. Whatever interrupts it, the model is then as it was."""
        bring_back = _remember(self.model, self.modules, self.before)
        try:
            chosen = {id(encoder) for encoder, _ in self.rewrites}
            uninstall_rewrites([encoder for encoder, _ in self.before if id(encoder) not in chosen])
            for encoder, rewrite in self.rewrites:
                install_rewrite(encoder, rewrite)
            for module, host in self.hosts:
                host.install(module)
            self._write_settings()
        except BaseException:  # an interrupt, say
            bring_back()
            raise

    def _write_settings(self) -> None:
        model = self.model
        _forget_settings(self.modules)
        if isinstance(getattr(model, "config", None), PreTrainedConfig):
            settings = self.config.to_pitome_dict()
            settings.pop("base_model_name_or_path", None)  # a recipe names the model; the model holds its own weights
            if self.mask_token is not None:  # the tokenizer may not be there where the model is loaded next
                settings["protect_token_ids"] = sorted({self.mask_token, *settings.get("protect_token_ids", ())})
            model.config.pitome = settings
        if hasattr(model, "add_model_tags") and TAG not in (getattr(model, "model_tags", None) or []):
            model.add_model_tags([TAG])


def survey(model: nn.Module, config: PiToMeConfig, hub: Mapping[str, Any] | None = None) -> Survey:
    """Looks at `model`, and plans what `config` asks of it: all the checks. Changes nothing and reads no weights.

    Args:
        hub (`Mapping`, *optional*):
            How to look for the tokenizer of a model that predicts masked tokens. `None`: it is not looked for.

    Raises:
        ValueError: as [`apply_pitome`].
    """
    modules = _modules_of(model)
    selected = select_encoders(modules, config)
    hosts = find_hosts(modules)
    encoders = adapt_architectures(modules, hosts, selected)
    mask_token = None
    if hub is not None and any(architecture.reads_token_ids for _, architecture, _ in encoders):
        named = any(settings.protect_token_ids for _, _, settings in encoders)
        mask_token = find_mask_token(modules, named, **hub)
    rewrites = []
    for encoder, architecture, settings in encoders:
        with about_part(architecture.part if config.parts else None):
            rewrites.append((encoder, plan_rewrite(encoder, architecture, settings, mask_token)))
    merging = [(encoder, plan.architecture, plan.unmerge) for encoder, plan in rewrites if not plan.is_dense]
    check_hosts(modules, merging)
    before = [(encoder, encoder.pitome) for encoder in rewritten_among(modules)]
    return Survey(model, config, modules, hosts, rewrites, before, mask_token)


@contextlib.contextmanager
def settings_kept(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the block the settings of `model` may change. Afterwards it has those from before, wherever they stand,
    or is dense as it was."""
    before = [(encoder, encoder.pitome) for encoder in rewritten_encoders(model)]
    bring_back = _remember(model, _modules_of(model), before)
    try:
        yield model
    finally:
        if [id(encoder.pitome) for encoder in rewritten_encoders(model)] != [id(rewrite) for _, rewrite in before]:
            bring_back()


def _remember(
    model: nn.Module, modules: list[nn.Module], before: list[tuple[nn.Module, EncoderRewrite]]
) -> Callable[[], None]:
    """What gives `model` its settings back: the rewrites `before`, and what its configurations and tags say now."""
    entries = [(config, config.pitome) for config in _configs_of(modules) if hasattr(config, "pitome")]
    tags = copy.copy(vars(model).get("model_tags"))  # which `add_model_tags` changes in place

    def bring_back() -> None:
        remove_pitome(model)
        for encoder, rewrite in before:
            install_rewrite(encoder, rewrite)
        for module, host in find_hosts(modules) if before else ():
            host.install(module)
        for config, entry in entries:
            config.pitome = entry
        if tags is not None:
            model.model_tags = tags

    return bring_back


def _modules_of(model: nn.Module) -> list[nn.Module]:
    """`list(model.modules())`, in a third of the time: a search over settings asks for it again and again."""
    found: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and module not in found:
            found[module] = None
            waiting.extend(reversed(module._modules.values()))
    return list(found)


def remove_pitome(model: nn.Module) -> nn.Module:
    """Makes a rewritten model the dense one again, in place and for good; a dense model is left alone.

    Not while a forward of it runs in another thread: that forward raises a `RuntimeError`.

    Raises:
        TypeError: if `model` is not a module.
    """
    check_model("remove_pitome", model)
    modules = _modules_of(model)
    uninstall_rewrites(modules)
    for module, host in find_hosts(modules):
        host.uninstall(module)
    _forget_settings(modules)
    if TAG in (getattr(model, "model_tags", None) or []):
        model.model_tags = [tag for tag in model.model_tags if tag != TAG]
        if not model.model_tags:
            del model.model_tags  # back to the class's own
    return model


def _forget_settings(modules: list[nn.Module]) -> None:
    """Takes `pitome` out of the configurations of the model and of the models it is made of."""
    for config in _configs_of(modules):
        if hasattr(config, "pitome"):
            del config.pitome


def _configs_of(modules: list[nn.Module]) -> Iterator[Any]:
    """The configurations of the model and of the models it is made of, each once."""
    found = {id(c): c for module in modules if isinstance(c := vars(module).get("config"), PreTrainedConfig)}
    seen = set()
    for config in found.values():
        for part in dict(configurations(config)).values():
            if id(part) not in seen:
                seen.add(id(part))
                yield part


@contextlib.contextmanager
def layers_watched(model: nn.Module, watch: Callable[[LayerRecord], None]) -> Iterator[nn.Module]:
    """Inside the block, every layer of a rewritten `model` that can merge calls `watch` with a
    [`~modeling.record.LayerRecord`]: what it compared, and which tokens it merged. [`apply_pitome`] ends it.

    Forwards of all threads that begin inside the block call it; of two blocks at once, only the inner one is called.
    """
    before = [(encoder.pitome, encoder.pitome.watch) for encoder in rewritten_encoders(model)]
    for rewrite, _ in before:
        rewrite.watch = watch
    try:
        yield model
    finally:
        for rewrite, earlier in before:
            rewrite.watch = earlier


_disabling = threading.Lock()


@contextlib.contextmanager
def pitome_disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Inside the block, `model` computes what the dense model computes: in every thread, and until the last of several
    blocks is left. A forward that had begun before goes on as it was.

    A copy of the model merges, also one that is made inside the block, since nothing would end the block for it. A
    dense copy is `remove_pitome(copy.deepcopy(model))`.
    """
    rewrites = [encoder.pitome for encoder in rewritten_encoders(model)]
    _count_blocks(rewrites, 1)
    try:
        yield model
    finally:
        _count_blocks(rewrites, -1)


def _count_blocks(rewrites: list[EncoderRewrite], change: int) -> None:
    with _disabling:
        for rewrite in rewrites:
            rewrite.disabled_by += change
            rewrite.enabled = rewrite.disabled_by == 0
