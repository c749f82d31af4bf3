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

"""What the text encoders share: which of their tokens are special, their defaults, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..modeling.masks import read_cache, read_mask


#: Separators inside a sample: one between the two sentences of a pair, two with RoBERTa.
_INNER_SEPARATORS = 2

#: Measured with MiniLM on 20 Newsgroups and Reuters (docs/results.md).
DEFAULTS = {"layers": (0, 1, 2), "metric": "hidden_states"}
BUDGET_DEFAULTS = {"algorithm": "tome", "importance": 0.75, "weighted_by": "attention"}
#: What merges late has met its context, so that unlike words become one. Measured with a linear head on MiniLM's
#: tokens (docs/results.md).
PER_TOKEN_DEFAULTS = {"algorithm": "pitome", "importance": 0.5, "weighted_by": "sizes", "profile": "early"}


def special_tokens(arguments: Mapping[str, Any]) -> tuple[torch.Tensor, int]:
    """The first real token (CLS), the last (SEP), and the separator of a pair, wherever the padding is.

    No configuration names the separator reliably. It is found as the token that the sample also ends with; without
    token ids, as the place where the token types change.

    Args:
        arguments (`Mapping[str, Any]`): the encoder's arguments, by name.

    Returns:
        `torch.BoolTensor` of shape `(B, N)`, and how many tokens a sample can have in it.

    Raises:
        ValueError: for a cache (`past_key_values`), whose keys come in front of the sequence.
    """
    if read_cache(arguments) is not None:
        raise ValueError(
            "A cache (past_key_values) was passed to an encoder that merges tokens (prefix tuning does this, too). "
            "Its keys belong to no token, so merging cannot count them. Run it dense: with pitome_disabled(model): ..."
        )
    ids = arguments.get("input_ids")
    inputs = next(
        arguments[name]
        for name in ("input_ids", "inputs_embeds", "hidden_states")
        if name in arguments and arguments[name] is not None
    )
    valid, _ = read_mask(arguments.get("attention_mask"))
    shape = inputs.shape[:2]
    valid = torch.ones(shape, dtype=torch.bool, device=inputs.device) if valid is None else valid.expand(shape)
    order = valid.long().cumsum(dim=1)
    count = order[:, -1:]
    first, last = valid & (order == 1), valid & (order == count)
    types = arguments.get("token_type_ids")
    if ids is not None:
        # Before the last real token nothing but it is selected, so the sum is its id.
        separator = valid & (ids == (ids * last).sum(dim=1, keepdim=True)) & ~first & ~last
    elif types is not None:
        changes = valid[:, :-1] & valid[:, 1:] & (types[:, :-1] != types[:, 1:])
        separator = torch.nn.functional.pad(changes, (0, 1)) & ~first & ~last
    else:
        return first | last, 2
    return first | last | separator & (separator.long().cumsum(dim=1) <= _INNER_SEPARATORS), 2 + _INNER_SEPARATORS


def refuses_decoder(encoder: nn.Module) -> str | None:
    """Why `encoder` cannot merge, if it is a decoder."""
    for name in ("is_decoder", "add_cross_attention"):
        if getattr(encoder.config, name, False):
            return (
                f"{type(encoder).__name__} is configured as a decoder ({name}=True), whose causal mask and cache need "
                "every token in its place. In an encoder-decoder model, only the encoder can merge"
            )
    return None


def official_text(index: int, num_layers: int) -> dict:
    """BERT and DistilBERT in the released code: first three layers, Gaussian energy, upper against lower half, means
    without sizes (paper.md's table). It sums the keys over the heads, a factor that cosines do not see."""
    return {
        "merges": index < 3,
        "algorithm": "pitome_halves",
        "energy": "gaussian",
        "metric": "keys",
        "margin": 0.9 - 0.25 * index / num_layers,
        "proportional_attention": False,
        "weighted_by": "nothing",
    }


#: Settings of every text encoder for `register_architecture`.
SETTINGS = {
    "part": "text",
    "num_prefix_tokens": 0,
    "special_tokens": special_tokens,
    "refuses": refuses_decoder,
    "defaults": DEFAULTS,
    "budget_defaults": BUDGET_DEFAULTS,
    "per_token_defaults": PER_TOKEN_DEFAULTS,
    "official": official_text,
}
