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

"""What the arguments of an encoder say of its tokens: the masks of callers, and caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask

from ..merging.constants import is_traced


if TYPE_CHECKING:
    from .tokens import Tokens


#: A score that is lowered by this much weighs nothing in a softmax, in any dtype.
MASKED_BELOW = -9999.0


def check_mask(attention_mask: Any) -> None:
    """Refuses what is no mask.

    Raises:
        ValueError: for anything but a tensor of 2 to 4 dimensions, or `None`.
    """
    if attention_mask is None or isinstance(attention_mask, BlockMask):
        return
    if not isinstance(attention_mask, torch.Tensor) or not 2 <= attention_mask.dim() <= 4:
        is_tensor = isinstance(attention_mask, torch.Tensor)
        found = f"a tensor of shape {tuple(attention_mask.shape)}" if is_tensor else type(attention_mask).__name__
        raise ValueError(
            f"attention_mask is {found}. Merging accepts a tensor of shape (batch, tokens), 1 for a real token and 0 "
            "for padding, or (batch, 1 or heads, 1 or tokens, tokens), boolean or additive."
        )


def read_mask(attention_mask: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """A caller's mask as (real tokens `(B, N)`, pattern `(B, heads or 1, N or 1, N)`); either may be `None`.

    Args:
        attention_mask (`torch.Tensor`, *optional*):
            `(B, N)`, or `(B, [heads or 1,] N or 1, N)` boolean or additive, or a block mask of FlexAttention, which
            an encoder gets where the model around it makes masks. Never modified.

    Raises:
        ValueError: for anything else.
    """
    check_mask(attention_mask)
    if attention_mask is None:
        return None, None
    if isinstance(attention_mask, BlockMask):
        device = attention_mask.kv_num_blocks.device
        attention_mask = create_mask(attention_mask.mask_mod, *attention_mask.shape, device=device)
    if attention_mask.dim() == 2:
        return attention_mask.bool(), None
    if attention_mask.dim() == 3:
        attention_mask = attention_mask.unsqueeze(1)
    # Additive masks say "no" with the lowest number of some dtype, with -inf, or with -1e4 (the classic of BERT).
    allowed = attention_mask > MASKED_BELOW if attention_mask.is_floating_point() else attention_mask.bool()
    # A token that no query may look at is padding.
    valid = allowed.flatten(1, 2).any(dim=1)
    # An additive mask may hold a bias, not only "yes" and "no".
    says_more = attention_mask.shape[-2] > 1 or attention_mask.is_floating_point()
    return valid, attention_mask if says_more else None


def without_masks(tokens: Tokens, hidden_states: torch.Tensor) -> Tokens:
    """The `tokens` of `hidden_states` `(B, N, dim)` with what says as much as their masks in fewer operations of every
    layer: without `valid` where all are real, and with `ends` in place of `special` where these are the same number
    at the front and at the end of every sample.

    Masks are looked at where they are at hand: on a CPU, while nothing is recorded. Kernels for GPUs need nothing like
    it. What does not fit `hidden_states` is left for [`~merging.TokenMasks.check`] to refuse.
    """
    valid, special = tokens.valid, tokens.special
    given = [mask for mask in (valid, special) if mask is not None]
    if not given or is_traced() or tokens.pairwise_mask is not None or tokens.protected is not None:
        return tokens
    if any(type(mask) is not torch.Tensor or mask.device.type != "cpu" for mask in given):
        return tokens
    if any(mask.shape != hidden_states.shape[:2] for mask in given) or not (valid is None or valid.numpy().all()):
        return tokens
    tokens = replace(tokens, valid=None)
    if special is None or special.numpy().all():
        return tokens
    marks = special.numpy()
    first, last = int(marks[0].argmin()), int(marks[0, ::-1].argmin())
    if marks.sum() != len(marks) * (first + last) or marks[:, first : marks.shape[1] - last].any():
        return tokens
    return replace(tokens, special=None, max_special=0, ends=(first, last))


def read_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a forward: `cache` since transformers 5.24, and `past_key_values` before."""
    return next((arguments[name] for name in ("cache", "past_key_values") if arguments.get(name) is not None), None)
