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

"""Text models that attend to the tokens of an image: they read the merged tokens, each weighted by its size.

The vision tower returns every original token, so that outputs and heads see what they expect. Attending to the members
of a group is attending to one token whose score is raised by the log of the group's size, so the text model can read
the short sequence instead and gets the same result for a fraction of its key and value projections. Where a tensor
loses the mark that says how (a cast, a projection), the long sequence is read: slower, not different.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..merging import gather_tokens
from .architecture import Architecture
from .hosts import Host, register_host, remove_hooks
from .marks import mark, read_mark


def register_reader(
    model_class: type[nn.Module],
    reader: str,
    vision: str = "vision_model",
    drops_mask: str | None = None,
    weighs_at: str | None = None,
) -> None:
    """Lets the text model `reader` of `model_class` read the merged tokens of the tower `vision`.

    Args:
        model_class (`type`): the composite model.
        reader (`str`): its text model, called with `encoder_hidden_states` and `encoder_attention_mask` as keywords;
            the mask may be `(B, 1, 1, n)` and additive.
        vision (`str`): its vision tower.
        drops_mask (`str`, *optional*): end of the names of the cross-attention modules that do not get the mask.
        weighs_at (`str`, *optional*):
            Where `reader` takes no mask at all: end of the names of its cross-attention modules, which are called with
            `key_value_states` and `attention_mask` as keywords.
    """
    settings = {"reader": reader, "drops_mask": drops_mask, "weighs_at": weighs_at}
    install, uninstall = (functools.partial(change, **settings) for change in (_install, _uninstall))
    register_host(Host(model_class, install, uninstall, _mark_outputs, vision))


def _mark_outputs(model: nn.Module, architecture: Architecture, config: Any) -> Architecture:
    return replace(architecture, marks_outputs=True)


def read_merged_tokens(reader: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a reader: the short sequence, and log sizes as its mask."""
    hidden_states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
    found = read_mark(hidden_states)
    if found is None:
        return None
    member = found["member"]
    if member is not None:
        hidden_states = gather_tokens(hidden_states, member)
        mask = mask if mask is None else mask.to(member.device).gather(1, member)
    dtype = next(reader.parameters()).dtype
    bias = _log_sizes(found, dtype)
    if mask is not None:
        bias = bias.masked_fill(~mask.to(bias.device).bool()[:, None, None, :], torch.finfo(dtype).min)
    changed = {"encoder_hidden_states": hidden_states, "encoder_attention_mask": bias}
    return args, {**kwargs, **changed}


def shorten(reader: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a reader that takes no mask: the short sequence, unless weights are asked for."""
    hidden_states = kwargs.get("encoder_hidden_states")
    found = read_mark(hidden_states)
    shows_weights = kwargs.get("output_attentions", reader.config.output_attentions)
    if found is None or found["member"] is None or shows_weights:
        return None
    hidden_states = gather_tokens(hidden_states, found["member"])
    mark(hidden_states, **{**found, "member": None})
    return args, {**kwargs, "encoder_hidden_states": hidden_states}


def weigh_tokens(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a cross-attention module that gets a short sequence: log sizes as its mask."""
    hidden_states = kwargs.get("key_value_states")
    found = read_mark(hidden_states)
    if found is None or found["member"] is not None:
        return None
    return args, {**kwargs, "attention_mask": _log_sizes(found, hidden_states.dtype)}


def _log_sizes(found: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """What a mark adds to the scores: `(B, 1, 1, n)`."""
    sizes = found["sizes"]
    return (sizes.log() if found["proportional"] else torch.zeros_like(sizes)).to(dtype)[:, None, None, :]


def pass_mask_on(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a cross-attention module that looks for its mask under the other name."""
    if kwargs.get("encoder_hidden_states") is None:
        return None
    return args, {**kwargs, "encoder_attention_mask": kwargs.get("attention_mask")}


def _install(model: nn.Module, reader: str, drops_mask: str | None, weighs_at: str | None) -> None:
    text_model = model.get_submodule(reader)
    read = read_merged_tokens if weighs_at is None else shorten
    if read in text_model._forward_pre_hooks.values():
        return
    text_model.register_forward_pre_hook(read, with_kwargs=True)
    for name, module in text_model.named_modules():
        for end, hook in ((drops_mask, pass_mask_on), (weighs_at, weigh_tokens)):
            if end is not None and name.endswith(end):
                module.register_forward_pre_hook(hook, with_kwargs=True)


def _uninstall(model: nn.Module, reader: str, **settings: Any) -> None:
    for module in model.get_submodule(reader).modules():
        remove_hooks(module, (read_merged_tokens, shorten, pass_mask_on, weigh_tokens))
