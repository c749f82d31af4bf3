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

"""What the class token pays to each token."""

from __future__ import annotations

import torch

from .constants import deciding
from .fused import class_attention_fused
from .opaque import empty, operator


@deciding
def class_attention(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """What the first token that is `valid` pays to each.

    Args:
        query (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
        key (`torch.Tensor` of shape `(B, key heads, n, head_dim)`): several heads of queries may share one.
        bias (`torch.Tensor`, *optional*):
            What is added to the scores, or a boolean mask; broadcasts to `(B, heads, n, n)`.
        valid (`torch.BoolTensor` of shape `(B, n)`, *optional*): real tokens. `None`: the first token is meant.
        scaling (`float`): of the scores.

    Returns:
        `torch.FloatTensor` of shape `(B, n)`, the mean over the heads; or `(B, heads, n)` where a kernel of a GPU
        computed it, since the kernel that reads it takes the mean along the way, and `(B, 1, n)` from that of a CPU.
    """
    found = class_attention_fused(query, key, bias, valid, scaling)
    if found is not None:
        return found
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return attention_over_heads(query, key, bias, valid, scaling)


@operator("class_attention", fake=lambda query, key, *_: empty(key, (key.shape[0], key.shape[2]), torch.float32))
def attention_over_heads(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """[`class_attention`] in PyTorch, its mean over the heads, with as many heads of keys as of queries: `(B, n)`."""
    if valid is None:
        query = query[:, :, :1]
    else:
        valid = valid.expand(query.shape[0], -1)
        first = ((valid.long().cumsum(dim=1) == 1) & valid).long().argmax(dim=1)
        first = first[:, None, None, None]
        query = query.gather(2, first.expand(-1, query.shape[1], 1, query.shape[3]))
        if bias is not None and bias.shape[2] > 1:
            bias = bias.expand(query.shape[0], -1, -1, -1)
            bias = bias.gather(2, first.expand(-1, bias.shape[1], 1, bias.shape[3]))
    # Not a matrix product: for one query it would first copy the keys of all heads, which lie apart.
    scores = (key.float() * query.float()).sum(dim=-1)
    bias = None if bias is None else bias[:, :, 0]
    if bias is None or bias.dtype == torch.bool:
        scores = scores * scaling
        scores = scores if bias is None else scores.masked_fill(~bias, torch.finfo(scores.dtype).min)
    else:
        scores = torch.add(bias.float(), scores, alpha=scaling)
    return scores.softmax(dim=-1).mean(dim=1)
