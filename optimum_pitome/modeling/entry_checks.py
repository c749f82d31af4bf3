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

"""What [`register_architecture`] refuses: settings that would fail, or do something else than they say, when a model
is rewritten."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..configuration.checks import show, similar
from ..configuration.fields import FIELDS, unknown_field_message
from .architecture import Architecture, own_class
from .attention import MergingAttention
from .layer import MergingLayer
from .signatures import names


def checked_settings(encoder_class: Any, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of an entry.

    Raises:
        ValueError: if `encoder_class` is no class, or one of `settings` is no argument of `register_architecture`.
    """
    if not isinstance(encoder_class, type):
        raise ValueError(
            f"encoder_class={show(encoder_class)}: expected the class of the module that runs the layers."
        )
    known = {field.name: str(field.type) for field in dataclasses.fields(Architecture)}
    for name, value in settings.items():
        if name not in known:
            meant = similar(name, list(known))
            hint = f" Did you mean {meant!r}?" if meant else ""
            raise ValueError(f"register_architecture has no argument {name!r}.{hint} Accepted: {', '.join(known)}.")
        if known[name].startswith("Callable") and value is not None and not callable(value):
            raise ValueError(f"{name}={show(value)}: expected a function, see register_architecture.")
    return settings


def check_entry(architecture: Architecture) -> None:
    """All checks of an entry that need no model.

    Raises:
        ValueError: for the first setting that cannot work; the message says what is expected.
    """
    _check_bases("layer_class", architecture.layer_class, MergingLayer, "layer")
    for attention_class in architecture.replacing_attention:
        _check_bases("attention_class", attention_class, MergingAttention, "attention module")
    _check_num_prefix_tokens(architecture)
    _check_defaults(architecture)
    _check_token_arguments(architecture)


def _check_bases(setting: str, ours: Any, mixin: type, what: str) -> None:
    if not (isinstance(ours, type) and issubclass(ours, mixin) and issubclass(own_class(ours, mixin), nn.Module)):
        raise ValueError(f"{setting}={ours!r}: expected a subclass of {mixin.__name__} and of the {what}'s class.")
    dense = own_class(ours, mixin)
    if ours.__mro__.index(dense) < ours.__mro__.index(mixin):
        raise ValueError(
            f"{ours.__name__} names {dense.__name__} before {mixin.__name__}, so that the forward of "
            f"{dense.__name__} would run in place of {mixin.__name__}'s. Swap them: "
            f"class {ours.__name__}({mixin.__name__}, {dense.__name__})."
        )
    if ours.__name__ != dense.__name__:
        raise ValueError(
            f"{ours.__name__} rewrites {dense.__name__}: both need the same name, since FSDP policies and device maps "
            f"find layers by it. Name the class so, or set its __name__ = {dense.__name__!r} before it is registered."
        )


def _check_num_prefix_tokens(architecture: Architecture) -> None:
    number, name = architecture.num_prefix_tokens, architecture.encoder_class.__name__
    if number is None:
        raise ValueError(
            f"register_architecture({name}, ...) needs num_prefix_tokens: say how many special tokens are at the "
            "front of the sequence, 1 for a class token, 0 for none. They never merge."
        )
    if not callable(number) and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise ValueError(
            f"num_prefix_tokens={show(number)}: expected the number of special tokens at the front of the sequence, "
            "or a function from the encoder's configuration to it."
        )


def _check_defaults(architecture: Architecture) -> None:
    for given in ("defaults", "budget_defaults", "per_token_defaults"):
        for name, value in getattr(architecture, given).items():
            if name not in FIELDS:
                fields = show(dict(getattr(architecture, given)))
                raise ValueError(f"{given}={fields}: {unknown_field_message(name, value)}")
            FIELDS[name].checked(value)


def _check_token_arguments(architecture: Architecture) -> None:
    dense = architecture.dense_layer_class
    hidden_states, *known = names(dense.forward)
    for name, cut in architecture.token_arguments.items():
        given = f"token_arguments={{{name!r}: ...}}"
        if name == "attention_mask":
            raise ValueError(
                f"{given}: the mechanism itself shrinks the attention_mask of the encoder with the tokens. Leave it "
                "out; layers that make masks of their own cannot merge."
            )
        if name == hidden_states:
            raise ValueError(f"{given}: these are the tokens themselves. Leave it out.")
        if cut is not None and not callable(cut):
            raise ValueError(f"{given}: expected a function such as cut_rotary, or None, not {show(cut)}.")
        # Layers take **kwargs, so only a near miss is known to be a mistake.
        meant = None if name in known else similar(name, known, cutoff=0.8)
        if meant is not None:
            raise ValueError(f"{given}: {dense.__name__}.forward takes no {name!r}. Did you mean {meant!r}?")
