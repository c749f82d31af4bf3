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

"""What passes between a rewritten layer and its attention function."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..merging.opaque import operator
from .state import Tokens


#: The keyword argument under which a layer hands its [`AttentionCall`] to the attention function.
CALL_KEY = "pitome_call"


@dataclass
class AttentionCall:
    """One layer's record for its attention function: the tokens going in, keys and attention coming out.

    Attributes:
        tokens ([`Tokens`]): the tokens attended to.
        proportional (`bool`): whether log sizes count.
        importance (`bool`): whether the layer wants `attention`.
        window (`int`, *optional*): how far apart tokens may be that attend to one another.
        keys (`torch.Tensor` of shape `(B, heads, n, head_dim)`, *optional*): set by the attention function.
        attention (`torch.FloatTensor` of shape `(B, n)`, *optional*):
            What the class token pays to each token, mean over the heads; set by the attention function.
    """

    tokens: Tokens
    proportional: bool
    importance: bool = False
    window: int | None = None
    keys: torch.Tensor | None = None
    attention: torch.Tensor | None = None

    def record(
        self, query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, scaling: float | None = None
    ) -> None:
        """Notes what the layer will compare tokens by.

        Args:
            query, key (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
            bias (`torch.Tensor`, *optional*): what is added to the scores, or a boolean mask; broadcasts to
                `(B, heads, n, n)`.
            scaling (`float`, *optional*): of the scores; by default that of the head's width.
        """
        self.keys = key
        if self.importance:
            # With padding, the class token is the first real one. After a merge the real ones come first.
            untouched = self.tokens.num_prefix_tokens == 0 and self.tokens.rows is None
            valid = self.tokens.valid if untouched else None
            if key.shape[1] != query.shape[1]:  # several heads of queries share one of keys
                key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            self.attention = _class_attention(query, key, bias, valid, scaling or key.shape[-1] ** -0.5)

    def attention_mask(self, attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask to use: the caller's as long as nothing merged, ours from then on."""
        if self.tokens.sizes is None:
            return attention_mask
        bias = self.tokens.attention_bias(dtype, self.proportional)
        if self.window is None:
            return bias
        places = self.tokens.positions
        near = ((places[:, :, None] - places[:, None, :]).abs() <= self.window).unsqueeze(1)
        return torch.where(near, 0.0 if bias is None else bias, torch.finfo(dtype).min).to(dtype)


@torch.no_grad()
@operator("class_attention", fake=lambda query, key, *_: key.new_empty((len(key), key.shape[2]), dtype=torch.float32))
def _class_attention(
    query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, valid: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """What the first token that is `valid` pays to each, mean over the heads: `(B, n)`, float32."""
    if valid is None:
        query = query[:, :, :1]
        bias = bias if bias is None or bias.shape[2] == 1 else bias[:, :, :1]
    else:
        valid = valid.expand(query.shape[0], -1)
        first = ((valid.long().cumsum(dim=1) == 1) & valid).long().argmax(dim=1)
        first = first[:, None, None, None]
        query = query.gather(2, first.expand(-1, query.shape[1], 1, query.shape[3]))
        if bias is not None and bias.shape[2] > 1:
            bias = bias.expand(query.shape[0], -1, -1, -1)
            bias = bias.gather(2, first.expand(-1, bias.shape[1], 1, bias.shape[3]))
    with torch.autocast(device_type=query.device.type, enabled=False):
        # Not a matrix product: for one query it would first copy the keys of all heads, which lie apart.
        scores = (key.transpose(1, 2).float() * query.transpose(1, 2).float()).sum(dim=-1)
        scores = scores.transpose(1, 2).unsqueeze(2)
        if bias is None or bias.dtype == torch.bool:
            scores = scores * scaling
            scores = scores if bias is None else scores.masked_fill(~bias, torch.finfo(scores.dtype).min)
        else:
            scores = torch.add(bias.float(), scores, alpha=scaling)
        return scores.softmax(dim=-1).mean(dim=1).squeeze(1)
