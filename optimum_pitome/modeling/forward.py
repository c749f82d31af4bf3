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

"""The way into a rewritten encoder: its class's `forward`, from a fresh [`MergeState`] to outputs of full length."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_torchdynamo_compiling, output_capturing

from .attention import check_implementation
from .marks import mark_tokens
from .masks import check_mask, read_mask
from .signatures import names
from .state import STATE_KEY, MergeState
from .tokens import Tokens
from .wrap import wrap


if TYPE_CHECKING:
    from .rewrite import EncoderRewrite


#: Where the caller of an encoder says that a row of its input holds several sequences, for flash attention.
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens")


def wrap_forward(encoder_class: type[nn.Module], methods: Iterable[str]) -> None:
    """Lets instances of `encoder_class` merge: those that have been rewritten, whoever calls their `forward` (or
    whichever of their `methods` run the layers).

    The class is wrapped, not the instance, so that copies and unpickled models merge, too; and not by hooks, since a
    forward that had begun could lose them before its end (and sentence-transformers calls `model.forward(...)`).
    What a forward does is decided once, at its beginning; changes of the settings reach the next one.
    """
    for name in methods:
        if name in vars(encoder_class):
            wrap(encoder_class, name, functools.partial(_merging, name))
            wrap(encoder_class, "extra_repr", _telling)


def _telling(extra_repr: Callable[[nn.Module], str]) -> Callable[[nn.Module], str]:
    """What each layer keeps, in lines for `print(model)`."""

    def telling_extra_repr(self) -> str:
        rewrite: EncoderRewrite | None = getattr(self, "pitome", None)
        own = extra_repr(self)
        if rewrite is None:
            return own
        kept = [f"{spec.ratio.kept:.4g}" for spec in rewrite.specs]
        which, kept = ("every layer", kept[:1]) if len(set(kept)) == 1 else ("the layers", kept)
        text = f"share of the tokens that {which} keeps: {', '.join(kept)}".replace("layers keeps", "layers keep")
        return "\n".join(filter(None, [own, *textwrap.wrap(text, 80, subsequent_indent="  ")]))

    return telling_extra_repr


def _merging(method: str, forward: Callable) -> Callable:
    known = names(forward)

    def merging_forward(self, *args, **kwargs):
        rewrite: EncoderRewrite | None = getattr(self, "pitome", None)
        if rewrite is None or not rewrite.merges or STATE_KEY in kwargs:
            return forward(self, *args, **kwargs)
        arguments = {**dict(zip(known, args)), **kwargs}
        _check_forward(self, rewrite, arguments)
        read_tokens = functools.partial(_read_tokens, rewrite, arguments)
        reads, num_run = _what_is_read(rewrite, arguments.get("output_hidden_states"))
        state = MergeState(
            rewrite.specs,
            read_tokens,
            rewrite.layer_arguments,
            rewrite.num_prefix_tokens,
            reads,
            num_run,
            rewrite.watch,
        )
        return_dict = arguments.get("return_dict")
        # An encoder that knows nothing of tuples is a part of a model that does.
        knows_tuples = "return_dict" in known or isinstance(self, PreTrainedModel)
        as_tuple = knows_tuples and (self.config.return_dict if return_dict is None else return_dict) is False
        if as_tuple:
            kwargs["return_dict"] = True  # the outputs are changed by name below
            args = args[: known.index("return_dict")] if "return_dict" in known else args
        captured = _captured_around(self)
        num_captured = len(captured)
        try:
            output = (rewrite.architecture.runs[method] or forward)(self, *args, **kwargs, **{STATE_KEY: state})
        except Exception as error:
            if getattr(self, "pitome", None) is None:
                raise RuntimeError(_changed_while_it_ran(rewrite)) from error
            raise
        if not state.arrive() and not _drops_layers(self, rewrite):
            # It was lost on the way, or some layers have become dense meanwhile.
            raise RuntimeError(_lost_state(self, rewrite))
        if rewrite.architecture.layer_class.returns_every_token:
            return output.to_tuple() if as_tuple else output
        if rewrite.unmerge:
            captured[num_captured:] = state.hidden_states(tuple(captured[num_captured:]), True)
        output = output if rewrite.architecture.methods else _finish(rewrite, state, output)
        return output.to_tuple() if as_tuple else output

    return merging_forward


def _captured_around(encoder: nn.Module) -> list:
    """The hidden states that the model around `encoder` collects of its layers, so far; where none does, some list.

    transformers collects them while they are computed, for the model whose `forward` has the decorator. That is the
    model around an encoder that is no model itself, and it never learns of the state of this forward.
    """
    collector = output_capturing._active_collector
    # While dynamo compiles, which cannot trace context variables, it is one only where nobody collects.
    if isinstance(encoder, PreTrainedModel) or (is_torchdynamo_compiling() and not collector.compiling):
        return []
    collected = collector.get()
    return [] if collected is None else collected.get("hidden_states", [])


def _check_forward(encoder: nn.Module, rewrite: EncoderRewrite, arguments: Mapping[str, Any]) -> None:
    """Refuses what merging would get wrong.

    Raises:
        ValueError: for what is no mask, or none that the attention implementation takes, and for packed sequences.
    """
    mask = arguments.get("attention_mask")
    check_mask(mask)
    check_implementation(rewrite.architecture.implementation_of(encoder), type(encoder).__name__, mask)
    packed = [name for name in _PACKED if arguments.get(name) is not None]
    if rewrite.architecture.layer_class.returns_every_token:
        packed = []  # it is what its layers are made for
    if packed:
        raise ValueError(
            f"{', '.join(packed)} was passed to {type(encoder).__name__}, which merges tokens: a row of its input "
            "holds several sequences then, whose tokens would merge with one another. Pass one sequence per row with "
            "an attention_mask, or run the model dense: with pitome_disabled(model): ..."
        )


def _what_is_read(rewrite: EncoderRewrite, asked: Any) -> tuple[tuple[int, ...], int | None]:
    """The hidden states that are read together, and how many layers run for them (`None`: all).

    Args:
        asked (`bool`, `int` or `list[int]`, *optional*):
            The argument `output_hidden_states`, in which models around an encoder say since transformers 5.24 which
            hidden states they read of it.
    """
    reads = rewrite.architecture.reads
    if not reads or asked is None or isinstance(asked, bool):
        return reads, None
    count = len(rewrite.specs) + 1
    indices = [asked] if isinstance(asked, int) else asked
    reads = tuple(index % count for index in indices if -count <= index < count)
    return reads, max(reads, default=None)


def _read_tokens(rewrite: EncoderRewrite, arguments: Mapping[str, Any]) -> Tokens:
    """The tokens that enter an encoder, from its arguments by name."""
    if rewrite.architecture.read_arguments is not None:
        arguments = rewrite.architecture.read_arguments(arguments)
    special, max_special = None, 0
    if rewrite.architecture.special_tokens is not None:
        special, max_special = rewrite.architecture.special_tokens(arguments)
    valid, pairwise_mask = read_mask(arguments.get("attention_mask"))
    if rewrite.num_suffix_tokens:
        special, max_special = _last(rewrite.num_suffix_tokens, arguments), rewrite.num_suffix_tokens
    if valid is not None and special is not None:
        valid = valid.expand_as(special)  # a 4D mask may be one for the whole batch
    return Tokens(
        valid=valid,
        special=special,
        pairwise_mask=pairwise_mask,
        track_positions=bool(rewrite.architecture.token_arguments) or rewrite.architecture.window is not None,
        num_prefix_tokens=rewrite.num_prefix_tokens,
        max_special=max_special,
        protected=_places_of(rewrite.protect_token_ids, arguments.get("input_ids")),
    )


def _last(number: int, arguments: Mapping[str, Any]) -> torch.Tensor:
    """Where the last `number` tokens of an encoder's `hidden_states` `(B, N, dim)` are: `(B, N)` bool."""
    hidden_states = arguments["hidden_states"]
    length = hidden_states.shape[1]
    place = torch.arange(length, device=hidden_states.device)
    return (place >= length - number).expand(hidden_states.shape[0], -1)


def _places_of(token_ids: tuple[int, ...], input_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Where `input_ids` `(B, N)` has one of `token_ids`: `(B, N)` bool."""
    if not token_ids or input_ids is None:
        return None
    found = input_ids == token_ids[0]
    for token_id in token_ids[1:]:  # numbers and no tensor, which would have to come to the device in every forward
        found = found | (input_ids == token_id)
    return found


def _finish(rewrite: EncoderRewrite, state: MergeState, output: Any) -> Any:
    """Brings the outputs back to the original length where that is wanted."""
    tokens = state.slots[-1]
    full_length = rewrite.architecture.full_length_at is not None
    if rewrite.unmerge != full_length:
        restore = tokens.unmerge if rewrite.unmerge else tokens.compress
        output.last_hidden_state = restore(output.last_hidden_state)
    if output.get("hidden_states") is not None:
        output.hidden_states = state.hidden_states(output.hidden_states, rewrite.unmerge)
    if rewrite.architecture.marks_outputs and tokens.sizes is not None:
        mark_tokens(output.last_hidden_state, tokens, rewrite.unmerge, state.specs[-1].proportional_attention)
    return output


def restore_length(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    """Forward hook of `Architecture.full_length_at`: the original length, for what follows inside the encoder."""
    state: MergeState | None = kwargs.get(STATE_KEY)
    if state is not None and state.slots[-1] is not None:
        output.last_hidden_state = state.slots[-1].unmerge(output.last_hidden_state)
    return output


def _changed_while_it_ran(rewrite: EncoderRewrite) -> str:
    return (
        f"{rewrite.architecture.encoder_class.__name__} was made dense by another thread while it ran. remove_pitome "
        "changes the model's classes, so no forward may run meanwhile; apply_pitome and pitome_disabled may come at "
        "any time, since a forward keeps the settings that it started with."
    )


def _drops_layers(encoder: nn.Module, rewrite: EncoderRewrite) -> bool:
    """Whether it may have left out some of its layers."""
    config = rewrite.architecture.config_of(encoder)
    settings = [getattr(config, name, 0.0) for name in ("layerdrop", "encoder_layerdrop")]
    return encoder.training and any(settings) and getattr(encoder, "pitome", None) is not None


def _lost_state(encoder: nn.Module, rewrite: EncoderRewrite) -> str:
    if getattr(encoder, "pitome", None) is None:
        return _changed_while_it_ran(rewrite)
    return (
        f"{type(encoder).__name__}.forward did not pass its keyword arguments on to its layers, so none of them could "
        "merge. Pass **kwargs on, or run the model dense: remove_pitome(model)."
    )
