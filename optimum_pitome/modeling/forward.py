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

"""Where a forward of a rewritten encoder begins and ends: from a fresh [`MergeState`] to outputs of full length."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .attention import check_implementation
from .state import SELECTION_KEY, STATE_KEY, MergeState, Tokens, read_mask


if TYPE_CHECKING:
    from .rewrite import EncoderRewrite


def without_hooks(forward: Callable) -> Callable:
    """Wraps the `forward` of an encoder's class: called by itself, past the module's hooks, it merges all the same.

    sentence-transformers calls `model.forward(...)`, for one.
    """

    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        if STATE_KEY in kwargs or not hasattr(self, "pitome"):
            return forward(self, *args, **kwargs)
        args, kwargs = begin_forward(self, args, kwargs) or (args, kwargs)
        output = forward(self, *args, **kwargs)
        return output if STATE_KEY not in kwargs else end_forward(self, args, kwargs, output)

    return wrapper


def _arguments(encoder: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    names = list(inspect.signature(type(encoder).forward).parameters)[1:]
    return {**dict(zip(names, args)), **kwargs}


def begin_forward(encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of an encoder: starts the forward's [`MergeState`]."""
    rewrite: EncoderRewrite = encoder.pitome
    if not rewrite.merges:
        return None
    check_implementation(encoder.config._attn_implementation, type(encoder).__name__)
    arguments = _arguments(encoder, args, kwargs)
    if rewrite.architecture.read_arguments is not None:
        arguments = rewrite.architecture.read_arguments(arguments)
    special, max_special = None, 0
    if rewrite.architecture.special_tokens is not None:
        special, max_special = rewrite.architecture.special_tokens(arguments)
    valid, pairwise_mask = read_mask(arguments.get("attention_mask"))
    if valid is not None and special is not None:
        valid = valid.expand_as(special)  # a 4D mask may be one for the whole batch
    tokens = Tokens(
        valid=valid,
        special=special,
        pairwise_mask=pairwise_mask,
        track_positions=rewrite.architecture.track_positions,
        num_prefix_tokens=rewrite.num_prefix_tokens,
        max_special=max_special,
        protected=_places_of(rewrite.protect_token_ids, arguments.get("input_ids")),
    )
    return_dict = arguments.get("return_dict")
    as_tuple = (encoder.config.return_dict if return_dict is None else return_dict) is False
    state = MergeState.start(rewrite.specs, tokens, as_tuple)
    state.selection = kwargs.get(SELECTION_KEY)
    kwargs = {name: value for name, value in kwargs.items() if name != SELECTION_KEY}
    kwargs[STATE_KEY] = state
    if as_tuple:
        kwargs["return_dict"] = True  # the outputs are changed by name below
    return args, kwargs


def _places_of(token_ids: tuple[int, ...], input_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Where `input_ids` `(B, N)` has one of `token_ids`: `(B, N)` bool."""
    if not token_ids or input_ids is None:
        return None
    found = input_ids == token_ids[0]
    for token_id in token_ids[1:]:  # numbers and no tensor, which would have to come to the device in every forward
        found = found | (input_ids == token_id)
    return found


def end_forward(encoder: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    """Forward hook of an encoder: brings the outputs back to the original length where that is wanted."""
    state: MergeState | None = kwargs.get(STATE_KEY)
    if state is None:
        return None
    full_length = encoder.pitome.architecture.full_length_at is not None
    if full_length and not encoder.pitome.unmerge:
        output.last_hidden_state = state.slots[-1].compress(output.last_hidden_state)
    if encoder.pitome.unmerge:
        if not full_length:
            output.last_hidden_state = state.slots[-1].unmerge(output.last_hidden_state)
    if output.get("hidden_states") is not None:
        output.hidden_states = state.hidden_states(output.hidden_states, encoder.pitome.unmerge)
    return output.to_tuple() if state.as_tuple else output


def restore_length(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    """Forward hook of `Architecture.full_length_at`: the original length, for what follows inside the encoder."""
    state: MergeState | None = kwargs.get(STATE_KEY)
    if state is not None:
        output.last_hidden_state = state.slots[-1].unmerge(output.last_hidden_state)
    return output
