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
import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..merging import gather_tokens
from .architecture import Architecture, find_submodule
from .attention_forms import EAGER, SDPA, kind_of
from .hosts import Host, register_host, remove_hooks
from .marks import mark, read_mark
from .signatures import parameters


def register_reader(
    model_class: type[nn.Module],
    reader: str,
    *,
    encoder: str = "vision_model",
    drops_mask: str | None = None,
    weighs_at: str | None = None,
    exist_ok: bool = False,
) -> None:
    """Lets a part of `model_class` that attends to what an encoder returns read its merged tokens only, each with the
    log of its size added to its scores. That gives the same result as attending to all tokens, and is cheaper.

    The encoder is one that can merge ([`register_architecture`]). The reader has to get the encoder's
    `last_hidden_state` itself, or samples of it that [`take_samples`] took: what became of it elsewhere (a projection,
    a cast) is read as it is, at full length.

    ```python
    register_reader(AlbefForRetrieval, "fusion_model", encoder="vision_model")
    ```

    Args:
        model_class (`type`): the model that contains both.
        reader (`str`):
            Its sub-module with the cross-attention, called with `encoder_hidden_states` `(B, N, dim)` as a keyword. It
            gets them as `(B, n, dim)`, and as `encoder_attention_mask` what is to be added to the scores,
            `(B, 1, 1, n)`.
        encoder (`str`, *optional*, defaults to `"vision_model"`): the sub-module that is, or contains, the encoder.
        drops_mask (`str`, *optional*):
            Where cross-attention modules do not get the mask that `reader` got, and look for it under the same name:
            the end of their names.
        weighs_at (`str`, *optional*):
            Where `reader` takes no mask at all: end of the names of its cross-attention modules, which are called with
            `key_value_states` and `attention_mask` as keywords.
        exist_ok (`bool`, *optional*, defaults to `False`):
            Whether to replace an earlier entry for the class, as when the cell of a notebook runs again. Built-in
            entries stay.

    Raises:
        ValueError: if the class is registered already. A model that does not have these parts is refused when it is
            rewritten.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)):
        raise ValueError(f"register_reader({model_class!r}, ...): expected the class of a model.")
    settings = {"reader": reader, "drops_mask": drops_mask, "weighs_at": weighs_at}
    install, check = (functools.partial(step, **settings) for step in (_install, _check))
    host = Host(
        model_class, install, _uninstall, _mark_outputs, encoder, check=functools.partial(check, encoder=encoder)
    )
    register_host(host, exist_ok)


def _mark_outputs(model: nn.Module, architecture: Architecture, config: Any) -> Architecture:
    return replace(architecture, marks_outputs=True)


def _check(model: nn.Module, encoder: str, reader: str, drops_mask: str | None, weighs_at: str | None) -> None:
    """
    Raises:
        ValueError: if `model` is not as it was registered.
    """
    find_submodule(model, encoder, "encoder", "register_reader")
    reading = find_submodule(model, reader, "reader", "register_reader")
    wanted = ["encoder_hidden_states", *(["encoder_attention_mask"] if weighs_at is None else [])]
    taken = parameters(reading.forward)
    takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken)
    missing = [name for name in wanted if name not in {parameter.name for parameter in taken} and not takes_more]
    if missing:
        raise ValueError(
            f"reader={reader!r}: {type(reading).__name__}.forward takes no {' and no '.join(missing)}, so it cannot "
            "read merged tokens. Name the sub-module that takes them in register_reader; where masks are not taken "
            "at all, say weighs_at."
        )
    names = [name for name, _ in reading.named_modules()]
    for setting, end in (("drops_mask", drops_mask), ("weighs_at", weighs_at)):
        if end is not None and not any(name.endswith(end) for name in names):
            raise ValueError(
                f"{setting}={end!r}: no sub-module of {type(reading).__name__} has a name with this end. Correct "
                f"{setting}= in register_reader."
            )


def read_merged_tokens(reader: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a reader: the short sequence, and log sizes as its mask."""
    hidden_states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
    found = _read(hidden_states, reader)
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
    found = _read(hidden_states, reader)
    shows_weights = kwargs.get("output_attentions", reader.config.output_attentions)
    if found is None or found["member"] is None or shows_weights:
        return None
    hidden_states = gather_tokens(hidden_states, found["member"])
    mark(hidden_states, **{**found, "member": None})
    return args, {**kwargs, "encoder_hidden_states": hidden_states}


def weigh_tokens(attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of a cross-attention module that gets a short sequence: log sizes as its mask."""
    hidden_states = kwargs.get("key_value_states")
    found = _read(hidden_states, attention)
    if found is None or found["member"] is not None:
        return None
    return args, {**kwargs, "attention_mask": _log_sizes(found, hidden_states.dtype)}


def _read(hidden_states: torch.Tensor | None, reader: nn.Module) -> dict[str, Any] | None:
    """The mark of what `reader` gets; `None` where it reads the long sequence, as attention without masks must.

    Raises:
        ValueError: if there is no long sequence, and the sizes that count cannot be added.
    """
    found = read_mark(hidden_states)
    implementation = getattr(getattr(reader, "config", None), "_attn_implementation", None)
    if found is None or implementation is None or kind_of(implementation) in (EAGER, SDPA):
        return found
    if found["member"] is None and found["proportional"]:
        raise ValueError(
            f"{type(reader).__name__} is set to attn_implementation={implementation!r}, which takes no token sizes, "
            "and reads a short sequence. Leave unmerge at True, or use model.set_attn_implementation('sdpa')."
        )
    return None


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


def _uninstall(model: nn.Module) -> None:
    for module in model.modules():
        remove_hooks(module, (read_merged_tokens, shorten, pass_mask_on, weigh_tokens))
