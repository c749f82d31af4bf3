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
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask

from ..kernels.choice import may_run
from ..merging.constants import is_traced


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


def without_masks(
    valid: torch.Tensor | None, special: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None, tuple[int, int]]:
    """What says as much as two masks `(B, N)` with fewer operations in every layer, where they are at hand to look at:
    on a CPU, while nothing is recorded. Kernels need nothing like it.

    Args:
        valid (`torch.BoolTensor`, *optional*): real tokens, not padding.
        special (`torch.BoolTensor`, *optional*): tokens that never merge.

    Returns:
        `valid`, `None` if all are real; `special`, `None` if no other tokens are real and special than the same
        number at the front and at the end of every sample; and these two numbers, 0 and 0 where there is a mask.
    """
    given = [mask for mask in (valid, special) if mask is not None]
    if is_traced() or any(type(mask) is not torch.Tensor or mask.device.type != "cpu" for mask in given):
        return valid, special, (0, 0)
    if not given or may_run(given[0].device) or (valid is not None and not valid.numpy().all()):
        return valid, special, (0, 0)
    if special is None or 0 in special.shape:
        return None, special, (0, 0)
    marks = special.numpy()
    if marks.all():
        return None, special, (0, 0)
    first, last = int(marks[0].argmin()), int(marks[0, ::-1].argmin())
    if marks.sum() != len(marks) * (first + last) or marks[:, first : marks.shape[1] - last].any():
        return None, special, (0, 0)
    return None, None, (first, last)


def read_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a forward: `cache` since transformers 5.24, and `past_key_values` before."""
    return next((arguments[name] for name in ("cache", "past_key_values") if arguments.get(name) is not None), None)
