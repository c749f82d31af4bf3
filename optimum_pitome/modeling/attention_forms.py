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

"""The forms in which log sizes reach an attention function, and which of them is chosen. All give the same attention.

- The mask form adds them to the scores as a mask `(B, 1, 1, n)`. Every function that takes masks can do it, but a mask
  keeps PyTorch from its flash kernel, and other flash kernels take none.
- The channel form makes queries and keys a little wider: `q' = [q, 1, …]` and `k' = [k, high, low, 0, …]`, so that
  `scaling * q'·k' = scaling * q·k + log size` (the idea of FlashBias, arXiv:2505.12044). It takes any kernel.
- The score form is a function that FlexAttention applies to each score.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask


MASK, CHANNELS, SCORE = "mask", "channels", "score"

#: The environment variable that says which form is tried first: one of `PREFERENCES`.
FORM_VARIABLE = "PITOME_ATTENTION"
PREFERENCES = ("auto", MASK, CHANNELS)

#: Kinds of attention functions. What is none of them is replaced by SDPA.
EAGER, SDPA, FLASH, FLEX, OTHER = "eager", "sdpa", "flash", "flex", "other"

#: The widest heads of flash kernels, the added channels included.
MAX_HEAD_DIM = 256
_MAX_HEAD_DIMS = {"flash_attention_4": 128}
#: Flash kernels take widths that are multiples of this.
_MULTIPLE = 8

#: From so many tokens on, SDPA's flash kernel should save more than the channels cost.
MIN_TOKENS = 512

#: Keyword arguments of an attention function that change scores.
_CHANGES = ("sliding_window", "softcap", "s_aux", "position_bias")


def _checked(preference: str, name: str) -> str:
    if preference not in PREFERENCES:
        raise ValueError(f"{name}={preference!r} is no form of attention. Expected 'auto', 'mask' or 'channels'.")
    return preference


_preference = _checked(os.environ.get(FORM_VARIABLE, "auto").strip().lower() or "auto", FORM_VARIABLE)


def use_attention_form(form: str) -> str:
    """Chooses, for the process, how log sizes reach attention functions. All forms give the same attention; what
    differs is the time. The environment variable `PITOME_ATTENTION` sets the same from the start.

    Args:
        form (`str`):
            `"auto"`, which follows the rule of [`choose_form`]; `"mask"`, a mask everywhere, so that SDPA runs in
            place of flash kernels and FlexAttention; or `"channels"`, two more channels in queries and keys, also
            where SDPA would get a mask of log sizes alone.

    Returns:
        `str`: what was set before.

    Raises:
        ValueError: for another form.
    """
    global _preference
    before, _preference = _preference, _checked(form, "form")
    return before


@torch.compiler.assume_constant_result  # the table of masks is a mapping, which dynamo does not trace everywhere
def kind_of(implementation: str) -> str:
    """The kind of an attention implementation of transformers, by its name."""
    if implementation in (EAGER, SDPA):
        return implementation
    if implementation == "flex_attention":
        return FLEX
    # What kernels of the Hub and of other packages have in common is the mask: real tokens, `(B, n)`.
    return FLASH if ALL_MASK_ATTENTION_FUNCTIONS.get(implementation) is flash_attention_mask else OTHER


def choose_form(
    implementation: str,
    device_type: str,
    dtype: torch.dtype,
    num_tokens: int,
    head_dim: int,
    *,
    padded: bool,
    pairwise: bool,
    plain: bool,
) -> str:
    """The form for an attention over tokens that have merged: `"mask"`, `"channels"` or `"score"`.

    | implementation | form |
    |---|---|
    | `eager` | mask |
    | `flex_attention` | score |
    | flash kernels (`flash_attention_2`, those of the `kernels` library) | channels |
    | `sdpa` on CUDA, in half precision, without padding, from 512 tokens on | channels |
    | `sdpa` elsewhere, and whatever no other row names | mask |

    SDPA's flash kernel takes no mask, and PyTorch's other kernels are slower where there are many tokens. The channels
    cost some launches and a copy of queries, keys and values, which short sequences do not make up for. The limit of
    512 tokens is an estimate, and was not measured. On CPUs a mask costs next to nothing.

    The mask form also runs, through SDPA, where another cannot say what counts: instead of channels where a mask or a
    window is about pairs of tokens, or where a head with two more channels would be wider than flash kernels take
    (256); instead of both where the scores are changed otherwise.

    Args:
        implementation (`str`): of transformers.
        device_type (`str`), dtype (`torch.dtype`): of the queries.
        num_tokens, head_dim (`int`): of the queries.
        padded (`bool`): whether some tokens may be padding.
        pairwise (`bool`): whether a mask or a window is about pairs of tokens.
        plain (`bool`): whether nothing else changes the scores or their weights: see [`is_plain`].
    """
    kind = kind_of(implementation)
    if kind in (EAGER, OTHER) or _preference == MASK or not plain:
        return MASK
    if kind == FLEX:
        return SCORE
    widest = _MAX_HEAD_DIMS.get(implementation, MAX_HEAD_DIM)
    if pairwise or head_dim + _num_channels(head_dim) > widest:
        return MASK
    if kind == FLASH:
        return CHANNELS
    if padded or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return MASK  # SDPA would need a mask in any case; and files for other devices are as short as they can be
    if _preference == CHANNELS:
        return CHANNELS
    half = device_type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    return CHANNELS if half and num_tokens >= MIN_TOKENS else MASK


def is_plain(kind: str, kwargs: dict) -> bool:
    """Whether the keyword arguments of an attention function leave scores alone. FlexAttention has no dropout."""
    if kind == FLEX and kwargs.get("dropout"):
        return False
    return all(kwargs.get(name) is None for name in _CHANGES)


def _num_channels(head_dim: int) -> int:
    return 2 + -(head_dim + 2) % _MULTIPLE


def add_channels(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, log_sizes: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of which plain attention with the same `scaling` is attention with `log_sizes` added to
    the scores. Its output has as many channels more as the values, which are 0.

    Half precision would round a log size by more than the scores are rounded, so it goes into two channels, the second
    of which holds what the first has lost. Both are divided by `scaling`, so that queries stay as they are.

    Args:
        query (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
        key, value (`torch.Tensor` of shape `(B, key heads, n, head_dim)`).
        log_sizes (`torch.FloatTensor` of shape `(B, n)`): finite.
        scaling (`float`): of the scores.

    Returns:
        The three, of one width, which is a multiple of 8.
    """
    dtype, number = key.dtype, _num_channels(key.shape[-1])
    # Float32 is split, too: flash functions may cast it, as that of transformers does around adapters.
    coarse = dtype if dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
    wanted = log_sizes / scaling
    high = wanted.to(coarse)
    added = torch.stack([high.to(dtype), (wanted - high).to(dtype)], dim=-1)
    added = nn.functional.pad(added, (0, number - 2)).unsqueeze(1).expand(-1, key.shape[1], -1, -1)
    key = torch.cat([key, added], dim=-1)
    query = nn.functional.pad(query, (0, number), value=1.0)
    return query, key, nn.functional.pad(value, (0, key.shape[-1] - value.shape[-1]))


def score_function(bias: torch.Tensor):
    """`score_mod` of FlexAttention that adds `bias`, which broadcasts to `(B, heads, n, n)`.

    Dimensions of one entry are left out, not expanded: compiled for CPUs, FlexAttention of torch 2.13 reads past the
    end of an expanded tensor.
    """
    varies = [size > 1 for size in bias.shape[:-1]] + [True]
    entries = bias[tuple(slice(None) if each else 0 for each in varies)].contiguous()

    def add(score, *place):
        return score + entries[tuple(index for index, each in zip(place, varies) if each)]

    return add
