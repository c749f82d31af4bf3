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

"""Many tokens: the same plans from a few rows of similarities at a time, in little memory."""

import pytest
import torch
from modeling.counting import MemoryMeter

from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, candidates, energy, match_tokens


ALGORITHMS = ["pitome", "pitome_halves", "pitome_unprotected", "tome", "tofu", "diffrate"]


def masks(batch_size, num_tokens, kind):
    attention = torch.rand(batch_size, num_tokens)
    if kind == "none":
        return TokenMasks(1, attention=attention)
    valid = torch.arange(num_tokens) < torch.tensor([[num_tokens], [num_tokens // 2 + 1], [5]])
    protected = None if kind == "padded" else torch.rand(batch_size, num_tokens) < 0.2
    return TokenMasks(1, valid, attention=attention, protected=protected)


@pytest.mark.parametrize("importance", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["none", "padded", "protected"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_few_rows_at_a_time_give_the_same_plan(monkeypatch, algorithm, kind, importance):
    # Whole numbers, so that no product is rounded and there are many ties.
    features = torch.randint(-2, 3, (3, 47, 6)).float()
    spec = MergeSpec(KeepRatio.from_float(0.6), algorithm, importance=importance)
    given = masks(3, 47, kind)
    whole = match_tokens(features, spec, given)
    monkeypatch.setattr(candidates, "MANY_TOKENS", 0)
    monkeypatch.setattr(energy, "_BLOCK", 3 * 47 * 5)
    parts = match_tokens(features, spec, given)
    assert torch.equal(whole.rows, parts.rows) and torch.equal(whole.kept, parts.kept)


def test_the_scores_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(energy, "_BLOCK", 2 * 30 * 7)
    features, mergeable = torch.randn(2, 30, 8), torch.rand(2, 30) < 0.8
    left, right = energy.factors(features, torch.rand(2, 30) + 0.5)
    for given in (None, mergeable):
        whole = energy.nearest_energy(energy.product(left, right), given, 0.0, 1.0)
        torch.testing.assert_close(energy.nearest_in_blocks(left, right, given), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("algorithm", ["pitome", "tome"])
def test_sixteen_thousand_tokens_need_little_memory(algorithm):
    num_tokens, width = 16384, 128
    hidden_states, features = torch.randn(1, num_tokens, width), torch.randn(1, num_tokens, 16)
    given = TokenMasks(1, attention=torch.rand(1, num_tokens))
    with MemoryMeter() as meter:
        plan = match_tokens(features, MergeSpec(KeepRatio.from_float(0.9), algorithm, importance=0.5), given)
        sizes = torch.ones(1, num_tokens)
        merged = plan.merge(hidden_states, sizes, plan.merge_sizes(sizes))
    assert merged.shape == (1, num_tokens - 1638, width)
    assert 8e6 < meter.peak < 256e6  # all pairs would be a gigabyte


def test_what_the_meter_measures():
    with MemoryMeter() as meter:
        tokens = torch.zeros(1000, 1000)
        (tokens + 1).add_(1).sum()
        tokens.view(-1)[:10].clone()
    assert 8e6 <= meter.peak < 8.1e6
