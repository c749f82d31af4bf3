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

"""Fewer stored vectors for late interaction with sentence-transformers: [`MergedTokenPooling`]."""

from __future__ import annotations

import torch
from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling


class MergedTokenPooling(BaseTokenPooling):
    """Stores one vector for each group of tokens that a rewritten encoder merged.

    The encoder returns a vector for every token, and those of a group are equal. MaxSim takes the largest of a query
    token's similarities, so the copies change no score: what is dropped here is free, and what merging costs was paid
    inside the encoder, which was faster for it. Vectors are compared after projection and normalization, with a
    tolerance for rounding; tokens that have the same vector without a merge are stored once, too.

    Pass it to `encode_document`, or put it last among the modules of a model. Encode queries without merging: they are
    short, and every token of theirs adds to the score.

    ```python
    model = MultiVectorEncoder(modules=[Transformer(path, model_kwargs={"pitome": {"flops_ratio": 1.8}}), ...])
    documents = model.encode_document(texts, token_pooling=MergedTokenPooling())
    with pitome_disabled(model):
        queries = model.encode_query(questions)
    ```

    Args:
        tolerance (`float`, *optional*, defaults to 1e-3):
            Two vectors are the same if they are not farther apart than this, as a fraction of the longer one.
        tasks (`str` or `list[str]`, *optional*): What it applies to, as in `BaseTokenPooling`. By default documents.

    Raises:
        ValueError: for a tolerance that is not in [0, 1).
    """

    config_keys: list[str] = ["tolerance", "tasks"]

    def __init__(self, tolerance: float = 1e-3, *, tasks: str | list[str] | None = None) -> None:
        super().__init__(tasks=tasks)
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance={tolerance}: expected a number from 0 to below 1, such as 1e-3.")
        self.tolerance = tolerance

    def pool_one(self, embedding: torch.Tensor, **kwargs) -> torch.Tensor:
        """`(tokens, dim)` to `(groups, dim)`: the first of those that are the same, in their order."""
        # In double precision, since the difference of two products is to tell 1e-3 from rounding.
        vectors = embedding.detach().double()
        squares = vectors.square().sum(dim=-1)
        distances = squares[:, None] + squares - 2 * vectors @ vectors.T
        same = distances <= self.tolerance**2 * torch.maximum(squares[:, None], squares)
        # A token stays unless one before it is the same.
        return embedding[~same.tril(diagonal=-1).any(dim=1)]
