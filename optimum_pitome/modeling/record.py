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

"""What a layer tells whoever watches a forward: what it compared, and what it merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..merging import MergePlan, MergeSpec, TokenMasks


if TYPE_CHECKING:
    from .tokens import Tokens


@dataclass(frozen=True)
class LayerRecord:
    """One layer of one forward, where it could merge. `B` samples, `N` tokens before the merge.

    Attributes:
        index (`int`): of the layer.
        spec ([`~merging.MergeSpec`]): its settings.
        features (`torch.Tensor` of shape `(B, N, dim)`): what was compared: the keys' mean over the heads, or hidden
            states.
        tokens ([`Tokens`]): as they were before the merge, with the way there from the original tokens.
        masks ([`~merging.TokenMasks`]): which of them may merge.
        plan ([`~merging.MergePlan`], *optional*): what merged. `None`: nothing.
    """

    index: int
    spec: MergeSpec
    features: torch.Tensor
    tokens: Tokens
    masks: TokenMasks
    plan: MergePlan | None
