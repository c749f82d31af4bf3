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
model (`eager` or `sdpa`) is called, the keys (and the class token's attention) are noted in it, and log sizes and the
shrunken mask take the place of the model's mask. Without such a call, the dense model's own function runs, whichever
that is.

transformers looks its attention functions up in an [`~transformers.AttentionInterface`], and says that a modeling file
that wants others declares an instance of its own. [`MergingInterface`] is that instance for the files of the families
here; no configuration changes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.utils import logging

from .call import CALL_KEY, AttentionCall
from .wrap import wrap


logger = logging.get_logger(__name__)

DELEGATES = ("eager", "sdpa")
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
    implementation = implementation or "eager"
    if implementation not in DELEGATES:
        # Log sizes are a bias per key, which flash kernels do not take: SDPA computes the same attention.
        implementation = "sdpa"
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask.bool()[:, None, None, :]
    attention_mask = call.attention_mask(attention_mask, query.dtype)
    call.record(query, key, attention_mask, kwargs.get("scaling"))
    if implementation == "eager" and attention_mask is not None and attention_mask.dtype == torch.bool:
        # Eager adds the mask to the scores, so a caller's boolean one would only shift them by one.
        allowed, lowest = attention_mask, torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, lowest)
    attend = eager if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
    return attend(module, query, key, value, attention_mask, **kwargs)


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
        if eager is None and implementation == "eager":
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
        return getattr(config, "_attn_implementation", None) or "eager"


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


def check_implementation(implementation: str | None, name: str) -> None:
    """Refuses what cannot work, and says once what is replaced.

    Raises:
        ValueError: for `flex_attention`, whose masks are programs and cannot shrink with the tokens.
    """
    if implementation in (*DELEGATES, None):
        return
    if "flex" in implementation:
        raise ValueError(
            f"{name} is set to attn_implementation={implementation!r}, whose block masks cannot shrink with the "
            "tokens. "
            "Use model.set_attn_implementation('sdpa') (or 'eager') with merging."
        )
    logger.warning_once(
        f"{name} is set to attn_implementation={implementation!r}, which cannot add token sizes to the attention "
        "scores. The rewritten layers use 'sdpa' instead; set attn_implementation='sdpa' to silence this."
    )
