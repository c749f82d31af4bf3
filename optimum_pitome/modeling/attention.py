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

"""The attention function of a rewritten model, registered with transformers' official `AttentionInterface`.

It hands the keys (and the class token's attention) to the layer, puts log sizes and the shrunken mask in place of the
model's mask, and delegates to the implementation that the model is set to (`eager` or `sdpa`). `model.config` keeps
naming that implementation; only the attention modules read a copy of the configuration that names ours, so
`set_attn_implementation` works as ever.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.utils import logging

from .call import CALL_KEY, AttentionCall


logger = logging.get_logger(__name__)

IMPLEMENTATION = "pitome"
DELEGATES = ("eager", "sdpa")


def pitome_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    implementation: str | None = None,
    **kwargs,
):
    """An attention function as transformers calls it; see the module's docstring.

    Args:
        query, key, value (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
        attention_mask (`torch.Tensor`, *optional*): the model's mask, for its original number of tokens.
        implementation (`str`, *optional*): what to delegate to; the module's setting by default.

    Returns:
        The output `(B, n, heads, head_dim)` and, with `eager`, the weights `(B, heads, n, n)`.
    """
    call: AttentionCall | None = kwargs.pop(CALL_KEY, None)
    implementation = implementation or module.pitome_config._attn_implementation or "eager"
    if implementation not in DELEGATES:
        # Log sizes are a bias per key, which flash kernels do not take: SDPA computes the same attention.
        implementation = "sdpa"
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask.bool()[:, None, None, :]
    if call is not None:
        attention_mask = call.attention_mask(attention_mask, query.dtype)
        call.record(query, key, attention_mask, kwargs.get("scaling"))
        if implementation == "eager" and attention_mask is not None and attention_mask.dtype == torch.bool:
            # Eager adds the mask to the scores, so a caller's boolean one would only shift them by one.
            allowed, lowest = attention_mask, torch.finfo(query.dtype).min
            attention_mask = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, lowest)
    attend = eager_function(module) if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
    return attend(module, query, key, value, attention_mask, **kwargs)


class MergingAttention:
    """Mixed in before an attention class that does not use the attention interface, or keeps its keyword arguments
    from it; under the **same name**, like [`MergingLayer`]. A family writes `forward` with the parameters of the
    original and calls [`~MergingAttention.attend`] in it."""

    def attend(self, query, key, value, attention_mask, kwargs, **settings):
        """Attention as the module is set to.

        Args:
            query, key, value (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
            attention_mask (`torch.Tensor`, *optional*): the layer's mask.
            kwargs (`dict`): the keyword arguments of `forward`; the layer's record is among them.
            settings: scaling, dropout, as the attention interface takes them; `implementation`.

        Returns:
            The output `(B, n, heads, head_dim)` and, with `eager`, the weights `(B, heads, n, n)`.
        """
        if CALL_KEY in kwargs:
            settings[CALL_KEY] = kwargs[CALL_KEY]
        # SDPA would take a module that does not say so for causal.
        settings.setdefault("is_causal", False)
        return pitome_attention_forward(self, query, key, value, attention_mask, **settings)


def eager_function(module: nn.Module):
    """The `eager_attention_forward` beside the definition of `module`, which is what its model calls for `eager`."""
    for module_class in type(module).__mro__:
        function = getattr(sys.modules[module_class.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    return None


def route(module: nn.Module) -> None:
    """Sends the attention of `module` through [`pitome_attention_forward`]."""
    if "pitome_config" not in vars(module):
        config = copy.copy(module.config)
        # Not through the property, which would also set the sub-configurations that the copy shares.
        config._attn_implementation_internal = IMPLEMENTATION
        module.pitome_config, module.config = module.config, config


def unroute(module: nn.Module) -> None:
    """Undoes [`route`]."""
    if "pitome_config" in vars(module):
        module.config = vars(module).pop("pitome_config")


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


AttentionInterface.register(IMPLEMENTATION, pitome_attention_forward)
