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

"""The attention of a rewritten model.

A rewritten layer hands its attention an [`AttentionCall`] as a keyword argument. Where the attention function of the
model is called, the keys (and the class token's attention) are noted in it, and log sizes and the shrunken mask take
the place of the model's mask, in the form that the function takes (`attention_forms.py`). Without such a call, and
before anything has merged, the dense model's own function runs, whichever that is.

transformers looks its attention functions up in an [`~transformers.AttentionInterface`], and says that a modeling file
that wants others declares an instance of its own. [`MergingInterface`] is that instance for the files of the families
here; no configuration changes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.utils import logging

from ..merging import runtime
from .attention_forms import (
    CHANNELS,
    EAGER,
    FLASH,
    FLEX,
    MASK,
    OTHER,
    SCORE,
    SDPA,
    add_channels,
    choose_form,
    is_plain,
    kind_of,
    score_function,
)
from .call import CALL_KEY, AttentionCall
from .wrap import wrap


logger = logging.get_logger(__name__)

#: Where a modeling file of transformers keeps its attention functions, and the one for `eager`.
_FUNCTIONS, _EAGER = "ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"


class MergingInterface(AttentionInterface):
    """The attention functions of one modeling file: those that the file had before, after a search for an
    [`AttentionCall`]."""

    def __init__(self, functions: AttentionInterface):
        super().__init__()
        self._local_mapping = functions._local_mapping

    def get_interface(self, attn_implementation: str | None, default: Callable) -> Callable:
        attend = super().get_interface(attn_implementation, default)
        return functools.partial(_attend, attend, attn_implementation, default)


def _attend(attend, implementation, eager, module, query, key, value, attention_mask, *args, **kwargs):
    call: AttentionCall | None = kwargs.pop(CALL_KEY, None)
    if call is None:
        return attend(module, query, key, value, attention_mask, *args, **kwargs)
    return merging_attention(call, implementation, eager, module, query, key, value, attention_mask, **kwargs)


def merging_attention(
    call: AttentionCall,
    implementation: str | None,
    eager: Callable,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
):
    """Attention over tokens that may have merged.

    Args:
        call ([`AttentionCall`]): the layer's record.
        implementation (`str`, *optional*): what the model is set to.
        eager (`Callable`): the model's attention function for `eager`.
        query, key, value (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
        attention_mask (`torch.Tensor`, *optional*): the model's mask, for its original number of tokens.
        kwargs: scaling, dropout and the like, as transformers' attention functions take them.

    Returns:
        The output `(B, n, heads, head_dim)` and, with `eager`, the weights `(B, heads, n, n)`.
    """
    implementation = implementation or EAGER
    kind = kind_of(implementation)
    if kind == OTHER:
        implementation = kind = SDPA
    if not call.merged and kind in (FLASH, FLEX):
        return _before_merging(call, kind, implementation, module, query, key, value, attention_mask, kwargs)
    form = MASK
    if call.merged:
        given = {"padded": call.is_padded, "pairwise": call.is_pairwise, "plain": is_plain(kind, kwargs)}
        form = choose_form(implementation, query.device.type, query.dtype, *query.shape[2:], **given)
    if form in (CHANNELS, SCORE):
        call.record(query, key, call.bias_to_record(key), kwargs.get("scaling"))
        if form == CHANNELS:
            return _with_channels(call, kind, implementation, module, query, key, value, kwargs)
        return _with_scores(module, query, key, value, call.attention_mask(None, torch.float32), kwargs)
    if kind in (FLASH, FLEX):
        implementation = SDPA
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
        attention_mask = attention_mask.bool()[:, None, None, :]
    attention_mask = call.attention_mask(attention_mask, query.dtype)
    if runtime() is not None and call.merged and not call.is_pairwise and is_plain(kind, kwargs):
        return call.attend_in_graph(query, key, value, attention_mask, kwargs.get("scaling"))
    call.record(query, key, attention_mask, kwargs.get("scaling"))
    if implementation == EAGER and attention_mask is not None and attention_mask.dtype == torch.bool:
        # Eager adds the mask to the scores, so a caller's boolean one would only shift them by one.
        attention_mask = additive(attention_mask, query.dtype)
    attend = eager if implementation == EAGER else ALL_ATTENTION_FUNCTIONS[implementation]
    return attend(module, query, key, value, attention_mask, **kwargs)


def _before_merging(call, kind, implementation, module, query, key, value, attention_mask, kwargs):
    """What the model computes without merging, with a function that takes no mask of four dimensions."""
    call.record(query, key, call.bias_to_record(key), kwargs.get("scaling"))
    attention_mask = call.attention_mask(attention_mask, query.dtype)
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4:
        if kind == FLEX:
            if attention_mask.dtype == torch.bool:
                attention_mask = additive(attention_mask, torch.float32)
            return _with_scores(module, query, key, value, attention_mask, kwargs)
        attention_mask = attention_mask[:, 0, 0]  # of our own making: the real tokens
    return ALL_ATTENTION_FUNCTIONS[implementation](module, query, key, value, attention_mask, **kwargs)


def _with_channels(call, kind, implementation, module, query, key, value, kwargs):
    log_sizes, scaling, width = call.log_sizes(), kwargs.get("scaling"), value.shape[-1]
    # Positions are those of the original tokens, in which flash functions look for the borders of sequences.
    kwargs.pop("position_ids", None)
    kwargs["scaling"] = query.shape[-1] ** -0.5 if scaling is None else scaling
    kwargs["is_causal"] = False  # SDPA would take a module that does not say so for causal
    if log_sizes is not None:
        query, key, value = add_channels(query, key, value, log_sizes, kwargs["scaling"])
    real = call.real_tokens() if kind == FLASH else None
    output, weights = ALL_ATTENTION_FUNCTIONS[implementation](module, query, key, value, real, **kwargs)
    return output[..., :width], weights


def _with_scores(module, query, key, value, bias, kwargs):
    """FlexAttention with `bias` added to the scores, as transformers calls it."""
    from transformers.integrations.flex_attention import compile_friendly_flex_attention, repeat_kv

    groups = query.shape[1] // key.shape[1]
    output = compile_friendly_flex_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        score_mod=None if bias is None else score_function(bias),
        scale=kwargs.get("scaling"),
        kernel_options=kwargs.get("kernel_options"),
        training=module.training,
    )
    return output.transpose(1, 2).contiguous(), None


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a boolean mask allows a pair, and the lowest number elsewhere."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


class MergingAttention:
    """Mixed in before an attention class that does not use the attention interface, or keeps its keyword arguments
    from it; under the **same name**, like [`MergingLayer`]. A family writes `forward` with the parameters of the
    original and calls [`~MergingAttention.attend`] in it. Where nothing merges, the original `forward` runs."""

    #: Whether `forward` takes the place of the original where nothing merges, too.
    replaces_dense: bool = False

    def attend(
        self, query, key, value, attention_mask, kwargs, implementation=None, eager=None, compared=None, **settings
    ):
        """Attention as the module is set to.

        Args:
            query, key, value (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
            attention_mask (`torch.Tensor`, *optional*): the layer's mask.
            kwargs (`dict`): the keyword arguments of `forward`; the layer's record is among them.
            implementation (`str`, *optional*): instead of what the module is set to.
            eager (`Callable`, *optional*): the function for `eager`; by default that of the class's own file.
            compared (`torch.Tensor` of shape `(B, heads, n, head_dim)`, *optional*):
                What tokens are compared by with `metric="keys"`, where a rotation that cannot be turned back made
                `key` of it. By default `key`.
            settings: scaling, dropout, as the attention interface takes them.

        Returns:
            The output `(B, n, heads, head_dim)` and, with `eager`, the weights `(B, heads, n, n)`.

        Raises:
            ValueError: if the module is set to nothing, or to `eager` without a function for it.
        """
        implementation = implementation or self._implementation()
        eager = eager or _of_modeling_file(self, _EAGER)
        if eager is None and implementation == EAGER:
            raise ValueError(
                f"{type(self).__name__} is to attend with 'eager', and no {_EAGER} stands beside its class. Pass one "
                "to attend (eager=...), or another implementation ('sdpa')."
            )
        if CALL_KEY in kwargs:
            settings[CALL_KEY] = kwargs[CALL_KEY]
        # SDPA would take a module that does not say so for causal.
        settings.setdefault("is_causal", False)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
        attended = _attend(attend, implementation, eager, self, query, key, value, attention_mask, **settings)
        if compared is not None and CALL_KEY in kwargs:
            kwargs[CALL_KEY].keys = compared
        return attended

    def _implementation(self) -> str:
        """What the module is set to."""
        config = getattr(self, "config", None)
        if config is None:
            raise ValueError(
                f"{type(self).__name__} has no config that says which attention it is set to. Give it one, or tell "
                "attend (implementation='sdpa')."
            )
        return getattr(config, "_attn_implementation", None) or EAGER


def wrap_attention(attention_class: type[MergingAttention], dense_class: type[nn.Module]) -> None:
    """Lets `dense_class.forward` run wherever `attention_class.forward` gets no [`AttentionCall`]."""

    def make(forward: Callable) -> Callable:
        def merging_or_dense(self, *args, **kwargs):
            if CALL_KEY in kwargs or self.replaces_dense:
                return forward(self, *args, **kwargs)
            return dense_class.forward(self, *args, **kwargs)

        return merging_or_dense

    wrap(attention_class, "forward", make)


def route_attention(modeling_file: str) -> None:
    """Sends the attention of the classes that are defined in a module of transformers (or of a user) through
    [`MergingInterface`]; once is enough."""
    namespace = vars(sys.modules[modeling_file])
    functions = namespace.get(_FUNCTIONS)
    if isinstance(functions, AttentionInterface) and not isinstance(functions, MergingInterface):
        namespace[_FUNCTIONS] = MergingInterface(functions)


def is_routed(attention: nn.Module) -> bool:
    """Whether `attention` finds its functions in a [`MergingInterface`]."""
    return isinstance(_of_modeling_file(attention, _FUNCTIONS), MergingInterface)


def _of_modeling_file(module: nn.Module, name: str):
    """What is called `name` beside the definition of the module's class or of a base of it."""
    for module_class in type(module).__mro__:
        found = getattr(sys.modules[module_class.__module__], name, None)
        if found is not None:
            return found
    return None


def check_implementation(implementation: str | None, name: str, attention_mask: Any = None) -> None:
    """Says once what is replaced.

    Raises:
        ValueError: for a mask of more than two dimensions with a flash kernel, which takes none.
    """
    kind = SDPA if implementation is None else kind_of(implementation)
    if kind == FLASH and attention_mask is not None and attention_mask.dim() > 2:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}, and {name} is set to "
            f"attn_implementation={implementation!r}, which takes a mask of shape (batch, tokens) only: 1 for a real "
            "token and 0 for padding. Pass such a mask, or use model.set_attn_implementation('sdpa')."
        )
    if kind == OTHER:
        logger.warning_once(
            f"{name} is set to attn_implementation={implementation!r}, and optimum_pitome does not know how token "
            "sizes could be added to its scores. The rewritten layers use 'sdpa' instead; set "
            "attn_implementation='sdpa' to silence this."
        )
