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

"""Random merge problems: shapes, masks, dtypes and settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st

from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens


#: A float32 cosine or mean is this exact, several times over; the energy is ranked in steps of 2**-22.
NEAR_TIE = 4e-6
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MATCHING = ("pitome", "pitome_unprotected", "pitome_halves", "pitome_random_split", "mutual", "tome")
#: Those that the paper compares with, beside `"tome"`.
COMPARED = ("tofu", "dct", "diffrate")


@dataclass(frozen=True)
class Problem:
    """
    Attributes:
        features, hidden_states: `(B, N, dim)`.
        ratio: a decimal, as a string.
        num_prefix, special, valid, max_special, attention, protected: see `TokenMasks`; `special` is `None` or
            `(B, N)`.
        combine: what ToFu's layer does; otherwise `None`.
    """

    features: torch.Tensor
    hidden_states: torch.Tensor
    sizes: torch.Tensor
    ratio: str
    algorithm: str
    energy: str
    margin: float
    alpha: float
    num_prefix: int
    special: torch.Tensor | None
    valid: torch.Tensor | None
    max_special: int
    importance: float
    attention: torch.Tensor
    protected: torch.Tensor | None
    combine: str | None

    @property
    def spec(self) -> MergeSpec:
        ratio = KeepRatio.from_float(float(self.ratio))
        settings = {name: getattr(self, name) for name in ("margin", "alpha", "importance", "combine")}
        return MergeSpec(ratio, self.algorithm, self.energy, **settings)

    @property
    def masks(self) -> TokenMasks:
        return TokenMasks(self.num_prefix, self.valid, self.special, self.max_special, self.attention, self.protected)

    def plan(self):
        return match_tokens(self.features, self.spec, self.masks)

    def real(self, sample: int) -> list[int]:
        """Indices of the real tokens of a sample."""
        num_tokens = self.features.shape[1]
        return [i for i in range(num_tokens) if self.valid is None or self.valid[sample, i]]

    def take(self, rows: list[int]) -> Problem:
        """The same problem for some of the samples, in this order."""
        tensors = {name: value[rows] for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)


RATIOS = st.integers(500, 999).map(lambda thousandths: f"0.{thousandths}") | st.sampled_from(
    ["0.5", "0.6", "0.7", "0.8", "0.85", "0.9", "0.925", "0.95", "0.975"]
)


@st.composite
def problems(draw, algorithms=MATCHING, dtypes=DTYPES, padding=("none", "left", "right", "scattered"), prefixes=3):
    batch_size, num_tokens = draw(st.integers(1, 3)), draw(st.integers(1, 26))
    dim = draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(dtypes))
    features = generator.normal(size=(batch_size, num_tokens, dim)) + draw(st.sampled_from([0.0, 0.5, 2.0]))
    hidden_states = generator.normal(size=(batch_size, num_tokens, 5))
    sizes = generator.integers(1, 6, size=(batch_size, num_tokens))
    num_prefix = draw(st.integers(0, min(prefixes, num_tokens - 1)))

    valid = None
    side = draw(st.sampled_from(padding))
    if side != "none":
        lengths = generator.integers(1, num_tokens + 1, size=(batch_size, 1))
        position = np.arange(num_tokens)[None]
        valid = position >= num_tokens - lengths if side == "left" else position < lengths
        if side == "scattered":
            valid = generator.permuted(valid, axis=1)
            valid[:, -1] = True
    # From one token in a hundred to every token.
    share = draw(st.sampled_from([None, None, 0.05, 0.3, 0.6, 0.9, 1.0]))
    special, max_special = None, 0
    if draw(st.booleans()):
        special = generator.random((batch_size, num_tokens)) < 0.2
        reference = special if valid is None else special & valid
        # Those in the prefix count once, as prefix; the caller's promise may be generous.
        max_special = int(reference[:, num_prefix:].sum(axis=1).max()) + draw(st.integers(0, 2))
    algorithm = draw(st.sampled_from(algorithms))
    return Problem(
        torch.tensor(features).to(dtype),
        torch.tensor(hidden_states).to(dtype),
        torch.tensor(sizes, dtype=torch.float32),
        draw(RATIOS),
        algorithm,
        draw(st.sampled_from(["paper", "elu", "gaussian", "nearest"])),
        draw(st.sampled_from([-0.5, 0.0, 0.3, 0.6, 0.9])),
        draw(st.sampled_from([0.5, 1.0, 2.0])),
        num_prefix,
        None if special is None else torch.tensor(special),
        None if valid is None else torch.tensor(valid),
        max_special,
        draw(st.sampled_from([0.0, 0.5, 1.0])),
        torch.tensor(generator.gamma(0.5, size=(batch_size, num_tokens)), dtype=torch.float32),
        None if share is None else torch.tensor(generator.random((batch_size, num_tokens)) < share),
        draw(st.sampled_from(["target", "mlerp"])) if algorithm == "tofu" else None,
    )
