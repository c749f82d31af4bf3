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

"""The four energies against numbers computed by hand and against the reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from merging.problems import NEAR_TIE, problems
from merging.reference import Decisions, energies

from optimum_pitome.merging import pairwise_similarity
from optimum_pitome.merging.candidates import importance_weights
from optimum_pitome.methods import ALGORITHMS, ENERGIES


# Three directions in the plane: cos(0, 1) = 0.6, cos(1, 2) = 0.8, cos(0, 2) = 0.
PLANE = torch.tensor([[[2.0, 0.0], [0.3, 0.4], [0.0, 5.0]]])
BELOW = math.exp(-0.5) - 1  # the only cosine below the margin 0.5 is 0

BY_HAND = {
    ("paper", 1.0): [(1 + 0.6 + BELOW) / 3, (0.6 + 1 + 0.8) / 3, (BELOW + 0.8 + 1) / 3],
    ("paper", 2.0): [(1 + 0.6 + 2 * BELOW) / 3, (0.6 + 1 + 0.8) / 3, (2 * BELOW + 0.8 + 1) / 3],
    ("elu", 1.0): [(0.5 + 0.1 + BELOW) / 3, (0.1 + 0.5 + 0.3) / 3, (BELOW + 0.3 + 0.5) / 3],
    ("elu", 2.0): [(0.5 + 0.1 + 2 * BELOW) / 3, (0.1 + 0.5 + 0.3) / 3, (2 * BELOW + 0.3 + 0.5) / 3],
    # Standard normal densities at 0, 0.4/0.5, 0.2/0.5 and 1/0.5, over sigma = 0.5.
    ("gaussian", 1.0): [
        (0.3989423 + 0.2896916 + 0.0539910) / 1.5,
        (0.2896916 + 0.3989423 + 0.3682701) / 1.5,
        (0.0539910 + 0.3682701 + 0.3989423) / 1.5,
    ],
    ("nearest", 1.0): [0.6, 0.8, 0.8],
}


@pytest.mark.parametrize(("name", "alpha"), BY_HAND)
def test_energies_by_hand(name, alpha):
    energy = ENERGIES[name].score(pairwise_similarity(PLANE), None, 0.5, alpha)
    assert energy.dtype == torch.float32
    assert energy[0].tolist() == pytest.approx(BY_HAND[name, alpha], abs=1e-6)


def test_equation_4_jumps_at_the_margin():
    similarity = torch.tensor([[[0.5, 0.4999]]])
    assert ENERGIES["paper"].score(similarity[..., :1], None, 0.5, 1.0).item() == 0.5
    assert ENERGIES["paper"].score(similarity[..., 1:], None, 0.5, 1.0).item() == pytest.approx(-1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ENERGIES)
def test_tokens_that_may_not_merge_do_not_count(name):
    noise = torch.randn(1, 4, 2)
    features = torch.cat([noise[:, :2], PLANE[:, :2], noise[:, 2:], PLANE[:, 2:]], dim=1)
    mergeable = torch.tensor([[False, False, True, True, False, False, True]])
    energy = ENERGIES[name].score(pairwise_similarity(features), mergeable, 0.5, 1.0)
    assert energy[mergeable].tolist() == pytest.approx(BY_HAND[name, 1.0], abs=1e-6)


@settings(max_examples=200)
@given(problems(padding=("none",), prefixes=0))
def test_energies_against_the_reference(problem):
    energy = ENERGIES[problem.energy].score(pairwise_similarity(problem.features), None, problem.margin, problem.alpha)
    for sample in range(len(problem.features)):
        decisions = Decisions()
        features = problem.features[sample].double().numpy()
        expected = energies(problem.energy, features, problem.margin, problem.alpha, decisions, [1.0] * len(features))
        assume(decisions.closest > NEAR_TIE)
        np.testing.assert_allclose(energy[sample].numpy(), expected, atol=3e-6, rtol=3e-6)


def test_mutual_nearest_neighbours_have_bitwise_equal_energy():
    similarity = pairwise_similarity(torch.randn(4, 40, 16))
    energy = ENERGIES["nearest"].score(similarity, None, 0.0, 1.0)
    nearest = similarity.masked_fill(torch.eye(40, dtype=torch.bool), -2).argmax(dim=-1)
    mutual = nearest.gather(1, nearest) == torch.arange(40)
    assert mutual.sum() > 20
    assert torch.equal(energy.gather(1, nearest)[mutual], energy[mutual])


@pytest.mark.parametrize("mergeable", [None, [True, True, True, False]])
def test_nearest_reads_rows_and_columns(mergeable):
    """A matrix product may differ between the two in the last bit; here they differ visibly."""
    similarity = torch.tensor(
        [[[9.0, 0.1, 0.2, 0.9], [0.5, 9.0, 0.3, 0.8], [0.4, 0.1, 9.0, 0.7], [0.0, 0.0, 0.6, 9.0]]]
    )
    mask = None if mergeable is None else torch.tensor([mergeable])
    energy = ENERGIES["nearest"].score(similarity, mask, 0.5, 1.0)[0]
    expected = [0.9, 0.8, 0.7, 0.9] if mergeable is None else [0.5, 0.5, 0.4, energy[3].item()]
    assert energy.tolist() == pytest.approx(expected)
    assert mergeable is None or energy[3] < -1e5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_similarity_is_float32_under_autocast_and_in_half_precision(dtype):
    features = (100 * torch.randn(2, 9, 8)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = pairwise_similarity(features)
        between = pairwise_similarity(features[:, :3], features[:, 3:])
    assert similarity.dtype == between.dtype == torch.float32
    exact = torch.nn.functional.normalize(features.double(), dim=-1)
    exact = exact @ exact.transpose(1, 2)
    torch.testing.assert_close(similarity.double(), exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(between.double(), exact[:, :3, 3:], atol=1e-6, rtol=0)


def test_weighted_similarity_by_hand():
    weights = torch.tensor([[1.0, 2.0, 0.0]])
    weighted = pairwise_similarity(PLANE, weights=weights)
    between = pairwise_similarity(PLANE[:, :1], PLANE[:, 1:], weights[:, :1], weights[:, 1:])
    # The cosines are 0.6, 0 and 0.8.
    expected = [[1.0, 1 - 1 * 2 * 0.4, 1.0], [1 - 1 * 2 * 0.4, 1.0, 1.0], [1.0, 1.0, 1.0]]
    torch.testing.assert_close(weighted, torch.tensor([expected]))
    torch.testing.assert_close(between, weighted[:, :1, 1:])


def test_importance_weights_by_hand():
    attention = torch.tensor([[0.0, 0.1, 0.2, 0.7]])
    half = importance_weights(attention, torch.tensor([[False, True, True, False]]), 1.0)
    assert half[0, 1:3].tolist() == pytest.approx([(0.1 / 0.15) ** 0.5, (0.2 / 0.15) ** 0.5])
    alone = importance_weights(attention, torch.tensor([[False, False, False, True]]), 1.0)
    assert alone[0, 3].item() == pytest.approx(1.0)  # it is its own mean
    every = importance_weights(attention, None, 0.5)
    assert every[0].tolist() == pytest.approx([0.2**0.25, 0.4**0.25, 0.8**0.25, 2.8**0.25])
    assert importance_weights(torch.zeros(1, 3), None, 0.5).isfinite().all()


def test_a_zero_vector_gives_no_nan():
    features = torch.zeros(1, 4, 3)
    features[0, 0] = 1
    for energy in ENERGIES.values():
        assert energy.score(pairwise_similarity(features), None, 0.5, 1.0).isfinite().all()


def test_everything_in_the_tables_has_its_function():
    assert all(callable(algorithm.match) for algorithm in ALGORITHMS.values())
    assert all(callable(energy.score) for energy in ENERGIES.values())
