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

from ..merging import class_attention, runtime
from ..merging.exporting import ONNX
from .tokens import Tokens


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
        attention (`torch.FloatTensor` of shape `(B, n)` or `(B, heads or 1, n)`, *optional*):
            What the class token pays to each token; set by the attention function.
    """

    tokens: Tokens
    proportional: bool
    importance: bool = False
    window: int | None = None
    keys: torch.Tensor | None = None
    attention: torch.Tensor | None = None

    @property
    def merged(self) -> bool:
        """Whether tokens have merged, so that sizes and masks are ours."""
        return self.tokens.sizes is not None

    @property
    def is_padded(self) -> bool:
        """Whether some of the tokens may be padding."""
        return self.tokens.valid is not None

    @property
    def is_pairwise(self) -> bool:
        """Whether what is added to the scores differs between queries."""
        return self.window is not None or self.tokens.pairwise_mask is not None

    def real_tokens(self) -> torch.Tensor | None:
        """Which tokens are no padding: `(B, n)` bool, or `None` for all."""
        return self.tokens.valid

    def log_sizes(self) -> torch.Tensor | None:
        """What is added to the scores: `(B, n)` float32, 0 for padding; `None` where sizes do not count."""
        if not self.proportional or not self.merged:
            return None
        log_sizes, real = self.tokens.sizes.log(), self.tokens.valid
        return log_sizes if real is None else log_sizes.masked_fill(~real, 0.0)

    def record(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        bias: torch.Tensor | None,
        scaling: float | None = None,
        weights: torch.Tensor | None = None,
    ) -> None:
        """Notes what the layer will compare tokens by.

        Args:
            query, key (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
            bias (`torch.Tensor`, *optional*):
                What is added to the scores, or a boolean mask; broadcasts to `(B, heads, n, n)`.
            scaling (`float`, *optional*): of the scores; by default that of the head's width.
            weights (`torch.Tensor` of shape `(B, heads, n, n)`, *optional*): the attention, where it is at hand.
        """
        self.keys = key
        if self.importance:
            # With padding, the class token is the first real one. After a merge the real ones come first.
            untouched = self.tokens.num_prefix_tokens == 0 and self.tokens.rows is None
            valid = self.tokens.valid if untouched else None
            if weights is not None and valid is None:
                self.attention = weights[:, :, 0].float().mean(dim=1)
                return
            self.attention = class_attention(query, key, bias, valid, scaling or key.shape[-1] ** -0.5)

    def attend_in_graph(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scaling: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention as runtimes of ONNX files compute it, where each query has a key to attend to; and what
        [`~AttentionCall.record`] notes. What exporters write of SDPA looks for queries that have no key, and shapes
        the keys anew.

        Args:
            query (`torch.Tensor` of shape `(B, heads, n, head_dim)`).
            key, value (`torch.Tensor` of shape `(B, key heads, n, head_dim)`).
            bias, scaling: as of [`~AttentionCall.record`].

        Returns:
            The output `(B, n, heads, head_dim)`, and the weights `(B, heads, n, n)`.
        """
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        keys, groups = key, query.shape[1] // key.shape[1]
        if groups > 1:
            keys, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.matmul(query * scale, keys.transpose(2, 3))
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        # OpenVINO makes one kernel of attention whose weights nothing else reads.
        self.record(query, key, bias, scaling, weights if runtime() == ONNX else None)
        return torch.matmul(weights, value).transpose(1, 2), weights

    def attention_mask(self, attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask to use: the caller's as long as nothing merged, ours from then on."""
        return self.bias(dtype) if self.merged else attention_mask

    def bias_to_record(self, key: torch.Tensor) -> torch.Tensor | None:
        """What [`~AttentionCall.record`] gets of `key` where the attention function has no such mask."""
        return self.bias(key.dtype, key) if self.importance else None

    def bias(self, dtype: torch.dtype, key: torch.Tensor | None = None) -> torch.Tensor | None:
        """What the tokens add to the scores: `(B, 1, 1, n)`, or more where it differs between queries or heads. Where
        nothing has merged, places in a window are those in `key`."""
        bias = self.tokens.attention_bias(dtype, self.proportional)
        if self.window is None:
            return bias
        places = self.tokens.positions
        if places is None:
            places = torch.arange(key.shape[2], device=key.device).unsqueeze(0)
        near = ((places[:, :, None] - places[:, None, :]).abs() <= self.window).unsqueeze(1)
        return torch.where(near, 0.0 if bias is None else bias, torch.finfo(dtype).min).to(dtype)
