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

"""The base of every rewritten layer: the original layer, cut between attention and MLP (paper, section 3.1)."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch

from ..merging import Constants, MergeSpec, is_opaque, is_traced, length_of, match_tokens, over_heads
from .apart import run_apart
from .call import CALL_KEY, AttentionCall
from .masks import without_masks
from .record import LayerRecord
from .state import STATE_KEY, MergeState
from .token_arguments import turn_back
from .tokens import Tokens


class MergingLayer:
    """Mixed in before a transformers layer class, under the **same name** (so that `_no_split_modules`, FSDP policies
    and output capture still find it), in a module of its own (so that it pickles).

    A family implements the two halves of the layer. They run only where tokens are merged: everywhere else the
    original forward runs, untouched.
    """

    #: Whether the layer's own `forward` passes its keyword arguments on to its attention. Where it does not, the two
    #: halves run in its place as soon as sizes count.
    passes_kwargs: bool = True
    #: Whether it returns every original token, whatever has merged, so that nothing has to come back after it.
    returns_every_token: bool = False
    #: Where in the layer tokens merge, where the settings have no choice.
    merges_after: str | None = None
    #: Position in the encoder. Set when the model is rewritten.
    pitome_index: int = 0
    #: What this layer does, for `print(model)`.
    pitome_spec: MergeSpec | None = None
    #: How far apart tokens may be that attend to one another here, if that is limited.
    pitome_window: int | None = None

    def attention_half(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """The layer up to and including the residual sum after attention. `(B, n, dim)` to `(B, n, dim)`.

        Takes the arguments of the layer's own `forward`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs attention_half, its part up to the sum after attention."
        )

    def mlp_half(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The rest of the layer. `(B, n, dim)` to `(B, n, dim)`."""
        raise NotImplementedError(f"{type(self).__name__} needs mlp_half, the rest of it after attention_half.")

    def compared_keys(self, keys: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """What tokens are compared by with `metric="keys"`.

        Args:
            keys (`torch.Tensor` of shape `(B, heads, n, head_dim)`): as attention sees them.
            args, kwargs: the arguments of the layer's own `forward`, cut to the tokens that are left.

        Returns:
            `torch.Tensor` of that shape, or their mean over the heads, `(B, n, head_dim)`.
        """
        return keys

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        state: MergeState | None = kwargs.pop(STATE_KEY, None)
        if state is None:
            return super().forward(hidden_states, *args, **kwargs)
        if torch.compiler.is_dynamo_compiling() and not state.is_traced:
            return run_apart(self, state, hidden_states, args, kwargs)
        run, *arguments = self.begin(state, hidden_states, args, kwargs, is_traced())
        hidden_states, tokens = run(self, hidden_states, *arguments)
        return self.end(state, hidden_states, tokens)

    def begin(
        self, state: MergeState, hidden_states: torch.Tensor, args: tuple, kwargs: dict[str, Any], traced: bool
    ) -> tuple[Any, ...]:
        """What this layer does in a forward: a function of the layer and its hidden states that returns hidden states
        and their [`Tokens`], and its further arguments.

        A layer knows its place, and the `state`, here and in [`~MergingLayer.end`] alone. So layers that are compiled
        one by one share what those functions are compiled to.
        """
        index = self.pitome_index
        spec, tokens = state.specs[index], state.entering(index).to(hidden_states.device)
        if not state.runs(index):
            return _pass_on, tokens
        if tokens.sizes is not None and state.layer_arguments is not None:
            args, kwargs = state.layer_arguments.cut(args, kwargs, tokens)
        about = length_of(hidden_states), is_opaque(hidden_states)
        if not state.merges(index, *about):
            if tokens.sizes is not None or state.merges_later(index, *about):
                return MergingLayer._attend, tokens, spec.proportional_attention, args, kwargs
            return MergingLayer._run_dense, tokens, args, kwargs
        if tokens.sizes is None:
            tokens = state.read_tokens().to(hidden_states.device)
            if state.watch is None:  # who watches wants to see masks
                tokens = without_masks(tokens, hidden_states)
            if not traced:
                tokens = replace(tokens, constants=Constants.of(hidden_states))
        watch = None if state.watch is None else functools.partial(_tell, state.watch, index)
        return MergingLayer._merge, tokens, spec, watch, args, kwargs

    def end(self, state: MergeState, hidden_states: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        """Hands the `tokens` on to the next layer, and returns what this one does."""
        state.slots[self.pitome_index + 1] = tokens
        return hidden_states

    def _run_dense(self, hidden_states, tokens, args, kwargs):
        """The layer as it was, before anything merges."""
        return super().forward(hidden_states, *args, **kwargs), tokens

    def _attend(self, hidden_states, tokens, proportional, args, kwargs):
        """The layer without a merge, with attention to `tokens` that may have merged."""
        kwargs = {**kwargs, CALL_KEY: AttentionCall(tokens, proportional, window=self.pitome_window)}
        return self._whole(hidden_states, *args, **kwargs), tokens

    def _merge(self, hidden_states, tokens, spec, watch, args, kwargs):
        """The layer with a merge by `spec`."""
        call = AttentionCall(tokens, spec.proportional_attention, spec.reads_attention, self.pitome_window)
        kwargs = {**kwargs, CALL_KEY: call}
        run = self._whole if spec.after == "layer" else self.attention_half
        hidden_states = run(hidden_states, *args, **kwargs)
        if call.keys is None:
            # Sizes would be ignored without a word.
            raise RuntimeError(
                f"The attention of {type(self).__name__} did not pass its keyword arguments on to the attention "
                "function, so that token sizes never reached it. If the family is yours, give register_architecture "
                "an attention_class."
            )
        by_keys = spec.metric != "hidden_states"
        features = self.compared_keys(call.keys, *args, **kwargs) if by_keys else hidden_states
        masks = tokens.masks(call.attention)
        plan = match_tokens(features, spec, masks)
        if watch is not None:
            watch(spec, features, tokens, masks, plan)
        if plan is not None:
            hidden_states, tokens = tokens.merge(plan, hidden_states, *masks.weights(spec))
        return (hidden_states if spec.after == "layer" else self.mlp_half(hidden_states)), tokens

    def _whole(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """The layer without a merge, whose attention gets the [`AttentionCall`] among `kwargs`."""
        if self.passes_kwargs:
            return super().forward(hidden_states, *args, **kwargs)
        return self.mlp_half(self.attention_half(hidden_states, *args, **kwargs))

    def _get_name(self) -> str:
        return f"PiToMe{super()._get_name()}"

    def extra_repr(self) -> str:
        spec = self.pitome_spec
        if spec is None or spec.ratio.is_dense:
            return "no merging"
        # Without its ratio, which the encoder tells: PyTorch prints layers that say the same once.
        names = ["algorithm", "energy", "metric", "importance", "weighted_by"] + ["keep_norm"] * bool(spec.keep_norm)
        told = {name: getattr(spec, name) for name in names}
        return ", ".join(f"{name}={value}" for name, value in told.items())


def _pass_on(layer, hidden_states, tokens):
    """Of a layer whose results nobody reads."""
    return hidden_states, tokens


def _tell(watch, index, spec, features, tokens, masks, plan):
    watch(LayerRecord(index, spec, over_heads(features), tokens, masks.over_heads(), plan))


class RotaryLayer(MergingLayer):
    """A layer that rotates its queries and keys by `position_embeddings`, halves of a head against one another.

    Keys are compared as they were before the rotation: after it, tokens that say the same in two places look different
    (measured: docs/rotary.md).
    """

    def compared_keys(self, keys: torch.Tensor, *args, position_embeddings=None, **kwargs) -> torch.Tensor:
        if position_embeddings is None:
            return keys
        # All heads are rotated alike, so their mean can be turned back in their place.
        return turn_back(over_heads(keys), position_embeddings)
