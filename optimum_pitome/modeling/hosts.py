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

"""Models around an encoder that have to change with it: merged tokens must disappear from more than the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.utils import logging

from .architecture import Architecture
from .notes import warn_once
from .registry import UnsupportedArchitectureError, import_family


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Reader:
    """The language model that reads what leaves an encoder.

    Attributes:
        encoder (`nn.Module`): the rewritten encoder.
        projector (`nn.Module`): what each token that is read passes first.
        language_model (`nn.Module`): without its head.
        num_dropped (`int`): tokens of the encoder that are not read.
    """

    encoder: nn.Module
    projector: nn.Module
    language_model: nn.Module
    num_dropped: int


@dataclass(frozen=True)
class Host:
    """What rewriting the encoders inside `model_class` means for the model itself.

    Attributes:
        model_class (`type`): The class of the model. Subclasses count.
        install, uninstall (`Callable[[nn.Module], None]`): Put hooks on the model, and take them off; idempotent.
        adapt (`Callable[[nn.Module, Architecture, PiToMeConfig], Architecture]`, *optional*):
            The entry to use for an encoder in `encoders`, from the model, the encoder's own entry and the settings.
        encoders (`str`, *optional*): The sub-module whose encoders `adapt` concerns.
        reader (`Callable[[nn.Module], Reader | None]`, *optional*): Who reads the encoder's tokens (summaries).
        reads_short (`bool`): Whether the model follows the short sequence.
        check (`Callable[[nn.Module], None]`, *optional*): Refuses a model that is not as it was registered.
    """

    model_class: type[nn.Module]
    install: Callable[[nn.Module], None]
    uninstall: Callable[[nn.Module], None]
    adapt: Callable[[nn.Module, Architecture, Any], Architecture] | None = None
    encoders: str = ""
    reader: Callable[[nn.Module], Reader | None] | None = None
    reads_short: bool = True
    check: Callable[[nn.Module], None] | None = None


_HOSTS: dict[type[nn.Module], Host] = {}

#: Whether models of transformers can read a short sequence, where the rule of [`_reads_short`] does not say it. By
#: name, so that nothing is imported for an entry.
_READS_SHORT = {
    "VisionTextDualEncoderModel": True,  # the pooled output
    "VisionEncoderDecoderModel": True,  # cross-attention, which gets no mask
    "DPREncoder": True,  # the first token
    "DPRContextEncoder": True,
    "DPRQuestionEncoder": True,
}

#: How the names of heads end that give every token a label of its own.
_LABELS_TOKENS = ("ForTokenClassification", "ForQuestionAnswering")
#: How the names of heads end that say something of every token.
_PER_TOKEN = (
    *_LABELS_TOKENS,
    "ForMaskedLM",
    "ForPreTraining",
    "ForMaskedImageModeling",
    "ForCTC",
    "ForAudioFrameClassification",
    "ForObjectDetection",
)

_PHRASES = (
    "its text is a row of phrases that must not see one another, and merging would mix their tokens. Load it without "
    "pitome"
)
#: Models of transformers in which no encoder can merge, by name.
_REFUSED = {"GroundingDinoModel": _PHRASES, "MMGroundingDinoModel": _PHRASES}


def register_host(host: Host, exist_ok: bool = False) -> Host:
    """Adds `host`; refuses a class that has one, unless it `exist_ok` and is not built in."""
    built_in = import_family(host.model_class)
    if host.model_class in _HOSTS:
        name = f"{host.model_class.__module__}.{host.model_class.__qualname__}"
        if built_in:
            raise ValueError(f"{name} is already registered. It is built in, so it cannot be replaced.")
        if not exist_ok:
            raise ValueError(f"{name} is already registered. Pass exist_ok=True to replace that entry.")
    _HOSTS[host.model_class] = host
    return host


def _host_of(model_class: type[nn.Module]) -> Host | None:
    return next((_HOSTS[base] for base in model_class.__mro__ if base in _HOSTS), None)


def find_hosts(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, Host]]:
    """The hosts among `modules`. Families register theirs when [`~registry.find_architecture`] has seen the module."""
    modules = list(modules)
    hosts = {module_class: _host_of(module_class) for module_class in dict.fromkeys(map(type, modules))}
    return [(module, host) for module in modules if (host := hosts[type(module)]) is not None]


def find_readers(model: nn.Module) -> list[Reader]:
    """The language models in `model` that read a rewritten encoder."""
    readers = [host.reader(module) for module, host in find_hosts(model.modules()) if host.reader is not None]
    return [reader for reader in readers if reader is not None]


def adapt_architectures(
    modules: list[nn.Module], hosts: list[tuple[nn.Module, Host]], encoders: list[tuple]
) -> list[tuple]:
    """`encoders` (encoder, registry entry, settings) with the entries that the models around them (`modules`, `hosts`)
    want for them."""
    models = [module for module in modules if isinstance(module, PreTrainedModel)]
    encoders = [(encoder, _for_reader(models, encoder, entry), config) for encoder, entry, config in encoders]
    for module, host in hosts:
        if host.check is not None:
            host.check(module)
        if host.adapt is None:
            continue
        inside = set(module.get_submodule(host.encoders).modules())
        encoders = [
            (encoder, host.adapt(module, architecture, config) if encoder in inside else architecture, config)
            for encoder, architecture, config in encoders
        ]
    return encoders


def _for_reader(models: list[nn.Module], encoder: nn.Module, architecture: Architecture) -> Architecture:
    """The entry with the defaults for models that label every token, if one of `models` around `encoder` does.
    Where masked tokens are predicted, these never merge, and what holds for embeddings was better."""
    known = [(model, _known_class(type(model))) for model in models]
    labelling = [model for model, found in known if found is not None and found.__name__.endswith(_LABELS_TOKENS)]
    if all(encoder not in model.modules() for model in labelling):
        return architecture
    return replace(architecture, budget_defaults={**architecture.budget_defaults, **architecture.per_token_defaults})


def check_hosts(modules: list[nn.Module], encoders: list[tuple[nn.Module, Architecture, bool]]) -> None:
    """Looks at the models around `encoders` that are to merge: each with its registry entry, and whether it is to
    return the original length. `modules` are those of the whole model, the outermost first.

    Raises:
        UnsupportedArchitectureError: if one of those models, which comes from transformers, would get wrong results.

    A text encoder alone, whose reader is not known, gets a warning.
    """
    models = [module for module in modules if isinstance(module, PreTrainedModel)]
    for encoder, architecture, unmerge in encoders:
        if encoder is modules[0] and architecture.part == "text" and not unmerge:
            warn_once(
                logger,
                f"{type(encoder).__name__} is to return the short sequence (unmerge=False), which an attention_mask "
                "does not fit any more. What averages tokens by their mask (sentence-transformers, say) would be "
                "wrong without an error: read the first token only, or leave unmerge at True.",
            )
        if architecture.methods and not unmerge:
            raise UnsupportedArchitectureError(
                f"{type(encoder).__name__} pools its tokens itself and shapes them to grids, which unmerge=False (the "
                "short sequence) does not fit. Leave unmerge at True: merging makes the layers faster, and what comes "
                "out keeps its length."
            )
        unit = "patch" if architecture.part == "vision" else "token"
        for module in models:
            reason = next(
                (_REFUSED[base.__name__] for base in type(module).__mro__ if base.__name__ in _REFUSED), None
            )
            if reason is None and (unmerge or _reads_short(type(module), architecture)):
                continue
            if all(inner is not encoder for inner in module.modules()):
                continue
            name, encoder_name = type(module).__name__, type(encoder).__name__
            if reason is not None:
                raise UnsupportedArchitectureError(f"The {encoder_name} of {name} cannot merge: {reason}.")
            raise UnsupportedArchitectureError(
                f"{name} reads one feature per {unit} of its {encoder_name}, so unmerge=False (the short sequence) "
                "cannot work here. Pass unmerge=True (the default) to merge inside the encoder only: it gets faster, "
                "and what it returns keeps its length."
            )


def _known_class(model_class: type[nn.Module]) -> type[nn.Module] | None:
    """The class of transformers whose `forward` a model around an encoder runs, if it is one of theirs."""
    return next(
        (
            base
            for base in model_class.__mro__
            if base.__module__.startswith("transformers.models.") and "forward" in vars(base)
        ),
        None,
    )


def _reads_short(model_class: type[nn.Module], architecture: Architecture) -> bool:
    """Whether a model around an encoder can read the short sequence. Models of transformers that were written for
    another encoder than their own family's count on its length, unless we know better; other people's models are
    theirs to judge."""
    known = _known_class(model_class)
    host = _host_of(model_class)
    if known is None or host is not None:
        return host is None or host.reads_short
    if issubclass(known, BackboneMixin):  # feature maps
        return False
    if known.__name__.endswith(_PER_TOKEN) or known.__name__ in architecture.read_whole:
        return False
    same_family = known.__module__.rpartition(".")[0] == architecture.encoder_class.__module__.rpartition(".")[0]
    return _READS_SHORT.get(known.__name__, same_family)


def remove_hooks(module: nn.Module, functions: tuple[Callable, ...]) -> None:
    """Takes the forward hooks and pre-hooks that call one of `functions` off `module`."""
    for hooks, with_kwargs in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key in [key for key, hook in hooks.items() if hook in functions]:
            del hooks[key]
            with_kwargs.pop(key, None)
