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
from typing import Any

import torch
from torch import nn

from ..merging import gather_tokens
from .hosts import Host, register_host
from .state import STATE_KEY, MergeState


# Attributes of the hidden states that leave the tower. Plain data: they are saved along with the tensor.
_MEMBER, _SIZES, _PROPORTIONAL = "pitome_member", "pitome_sizes", "pitome_proportional"


def register_reader(
    model_class: type[nn.Module], reader: str, vision: str = "vision_model", drops_mask: str | None = None
) -> None:
    """Lets the text model `reader` of `model_class` read the merged tokens of the tower `vision`.

    Args:
        model_class (`type`): the composite model.
        reader (`str`): its text model, called with `encoder_hidden_states` and `encoder_attention_mask` as keywords;
            the mask may be `(B, 1, 1, n)` and additive.
        vision (`str`): its vision tower.
        drops_mask (`str`, *optional*): end of the names of the cross-attention modules that do not get the mask.
    """
    settings = {"reader": reader, "vision": vision, "drops_mask": drops_mask}
    register_host(
        Host(model_class, functools.partial(_install, **settings), functools.partial(_uninstall, **settings))
    )


def mark_tokens(encoder: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
    """Forward hook of the tower, behind `end_forward`: says on its hidden states how to shorten them."""
    state: MergeState | None = kwargs.get(STATE_KEY)
    if state is None or state.slots[-1].sizes is None:
        return
    tokens, hidden_states = state.slots[-1], output[0]
    setattr(hidden_states, _SIZES, tokens.sizes)
    setattr(hidden_states, _MEMBER, tokens.members() if encoder.pitome.unmerge else None)
    setattr(hidden_states, _PROPORTIONAL, state.specs[-1].proportional_attention)


def carry_mark(hidden_states: torch.Tensor, copy: torch.Tensor, repeats: int) -> None:
    """Marks `copy` like `hidden_states`, each sample of which it has `repeats` times (beam search)."""
    if repeats == 1 or not hasattr(hidden_states, _SIZES):
        return
    for name in (_SIZES, _MEMBER, _PROPORTIONAL):
        value = getattr(hidden_states, name)
        setattr(copy, name, value.repeat_interleave(repeats, dim=0) if isinstance(value, torch.Tensor) else value)


def take_samples(hidden_states: torch.Tensor, index: torch.Tensor | slice) -> torch.Tensor:
    """`hidden_states[index]` of a rewritten tower, still marked: for pairing images with texts (re-ranking)."""
    taken = hidden_states[index]
    if hasattr(hidden_states, _SIZES):
        for name in (_SIZES, _MEMBER, _PROPORTIONAL):
            value = getattr(hidden_states, name)
            setattr(taken, name, value[index] if isinstance(value, torch.Tensor) else value)
    return taken


def read_merged_tokens(reader: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a reader: the short sequence, and log sizes as its mask."""
    hidden_states = kwargs.get("encoder_hidden_states")
    sizes = getattr(hidden_states, _SIZES, None)
    if sizes is None:
        return None
    mask, member = kwargs.get("encoder_attention_mask"), getattr(hidden_states, _MEMBER)
    if member is not None:
        hidden_states = gather_tokens(hidden_states, member)
        mask = mask if mask is None else mask.to(member.device).gather(1, member)
    dtype = next(reader.parameters()).dtype
    bias = sizes.log() if getattr(kwargs["encoder_hidden_states"], _PROPORTIONAL) else torch.zeros_like(sizes)
    bias = bias.to(dtype)
    if mask is not None:
        bias = bias.masked_fill(~mask.to(bias.device).bool(), torch.finfo(dtype).min)
    changed = {"encoder_hidden_states": hidden_states, "encoder_attention_mask": bias[:, None, None, :]}
    return args, {**kwargs, **changed}


def pass_mask_on(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a cross-attention module that looks for its mask under the other name."""
    if kwargs.get("encoder_hidden_states") is None:
        return None
    return args, {**kwargs, "encoder_attention_mask": kwargs.get("attention_mask")}


def _install(model: nn.Module, reader: str, vision: str, drops_mask: str | None) -> None:
    encoder, text_model = model.get_submodule(vision), model.get_submodule(reader)
    if "pitome" not in vars(encoder) or mark_tokens in encoder._forward_hooks.values():
        return
    encoder.register_forward_hook(mark_tokens, with_kwargs=True)
    text_model.register_forward_pre_hook(read_merged_tokens, with_kwargs=True)
    for name, module in text_model.named_modules():
        if drops_mask is not None and name.endswith(drops_mask):
            module.register_forward_pre_hook(pass_mask_on, with_kwargs=True)


def _uninstall(model: nn.Module, reader: str, vision: str, drops_mask: str | None) -> None:
    for module in (model.get_submodule(vision), *model.get_submodule(reader).modules()):
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if hook in (mark_tokens, read_merged_tokens, pass_mask_on)]:
                del hooks[key]
                for with_kwargs in (module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs):
                    with_kwargs.pop(key, None)
