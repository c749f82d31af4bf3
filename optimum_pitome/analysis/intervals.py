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

"""Intervals of means."""

from __future__ import annotations

import statistics

import torch


#: Quantile of the normal distribution for a two-sided interval of 95 %.
Z_95 = statistics.NormalDist().inv_cdf(0.975)


def half_width(values: torch.Tensor) -> torch.Tensor:
    """Half of Student's 95 % interval of the mean over the last dimension, of `(..., n)`: infinite for a single
    value."""
    from scipy import stats  # takes a second

    number = values.shape[-1]
    if number < 2:
        return torch.full(values.shape[:-1], torch.inf)
    return stats.t.ppf(0.975, number - 1) * values.std(dim=-1) / number**0.5
