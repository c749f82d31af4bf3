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

"""Which token joins which: by hand, and against the reference on random problems."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from merging import reference
from merging.problems import COMPARED, NEAR_TIE, problems

from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens, pairwise_similarity
from optimum_pitome.methods import ALGORITHMS


def directions(*degrees):
    """Unit vectors in the plane, `(1, N, 2)`."""
    return torch.tensor([[[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]])


def match(features, ratio, masks=None, **settings):
    return match_tokens(features, MergeSpec(KeepRatio.from_float(ratio), **settings), masks)


def pairs_of(plan, sample=0):
    """{source: target}, the target as a token of the input."""
    masked = plan.source_mask
    return {
        source: plan.kept[sample, slot].item()
        for j, (source, slot) in enumerate(zip(plan.source[sample].tolist(), plan.destination[sample].tolist()))
        if masked is None or masked[sample, j]
    }


def survivors(plan, sample=0):
    kept = plan.kept[sample].tolist()
    return kept if plan.valid is None else [token for token, real in zip(kept, plan.valid[sample]) if real]


def test_pitome_by_hand():
    # After CLS come two close pairs (1 and 2 degrees apart) and two loners. k = 2; the candidates are the pairs.
    features = directions(77, 0, 2, 50, 51, 120, 200)
    plan = match(features, 0.6, TokenMasks(1), algorithm="pitome", energy="nearest")
    # By energy: 3, 4 (tied, 1 degree), 1, 2 (tied, 2 degrees). Even ranks 3 and 1 join odd ranks 4 and 2.
    assert pairs_of(plan) == {3: 4, 1: 2}
    assert plan.kept.tolist() == [[0, 2, 4, 5, 6]]
    assert plan.assignment.tolist() == [[0, 1, 1, 2, 2, 3, 4]]


def test_several_may_join_one():
    # 0, 10, 20 and 30 degrees: the middle two have the highest mean cosine, then the outer two; all tied by position.
    # Ranks: 1, 2, 0, 3. A = {1, 0}, B = {2, 3}: both of A are most similar to 2.
    plan = match(directions(0, 10, 20, 30), 0.5, algorithm="pitome", energy="elu", margin=-0.9)
    assert pairs_of(plan) == {1: 2, 0: 2}
    assert plan.kept.tolist() == [[2, 3]]


def test_pitome_protects_what_is_alone():
    # A loner and a cluster, at the highest reduction that leaves the loner out of the candidates.
    plan = match(directions(0, 1, 2, 180, 3), 0.6, algorithm="pitome", energy="paper", margin=0.5)
    assert 3 in survivors(plan) and 3 not in pairs_of(plan).values()


def test_unprotected_by_hand():
    # By nearest-neighbour energy: 2, 3 (1 degree), 0, 1 (10 degrees), 4. A = {2, 0, 4}, B = {3, 1}; k = 1: 2 joins 3.
    plan = match(directions(0, 10, 100, 101, 250), 0.8, algorithm="pitome_unprotected", energy="nearest")
    assert pairs_of(plan) == {2: 3}
    assert plan.kept.tolist() == [[0, 1, 3, 4]]


def test_tome_by_hand():
    # CLS is position 0. Even positions 2 and 4 propose: 2 to 1 (10 degrees), 4 to 3 (1 degree); k = 1.
    features = directions(33, 0, 10, 100, 101, 250)
    plan = match(features, 0.8, TokenMasks(1), algorithm="tome")
    assert pairs_of(plan) == {4: 3}
    # Without a prefix, positions 0, 2 and 4 propose; the closest is 4 to 3 again.
    assert pairs_of(match(features[:, 1:], 0.8, algorithm="tome")) == {2: 3}


@settings(max_examples=400)
@given(problems())
def test_matching_against_the_reference(problem):
    check(problem)


@settings(max_examples=400)
@given(problems(algorithms=COMPARED))
def test_what_the_paper_compares_with_against_the_reference(problem):
    check(problem)


def check(problem):
    plan = problem.plan()
    for sample in range(len(problem.features)):
        special = () if problem.special is None else problem.special[sample].nonzero().flatten().tolist()
        expected = reference.match(
            problem.algorithm,
            problem.features[sample].double().numpy(),
            problem.ratio,
            problem.energy,
            problem.margin,
            problem.alpha,
            problem.num_prefix,
            special,
            None if problem.valid is None else problem.valid[sample].tolist(),
            problem.attention[sample].double().numpy(),
            problem.importance,
            () if problem.protected is None else problem.protected[sample].nonzero().flatten().tolist(),
        )
        assume(expected.decisions.closest > NEAR_TIE)
        if plan is None:
            assert not expected.pairs
            continue
        if problem.algorithm != "dct":
            assert pairs_of(plan, sample) == dict(expected.pairs)
        assert survivors(plan, sample) == expected.kept
        slots = plan.assignment[sample].tolist()
        for token in problem.real(sample):
            assert plan.kept[sample, slots[token]] == expected.group_of(token)

        hidden_states = problem.hidden_states[sample].double().numpy()
        combine = problem.combine or "mean"
        vectors, totals = reference.merged(expected, hidden_states, problem.sizes[sample].numpy(), combine)
        if combine == "mlerp":
            means, _ = reference.merged(expected, hidden_states, problem.sizes[sample].numpy())
            assume(not (np.linalg.norm(vectors, axis=1) > 8 * np.linalg.norm(means, axis=1)).any())  # they cancel
        merged = plan.merge(problem.hidden_states, problem.sizes)
        assert merged.dtype == problem.hidden_states.dtype
        tolerance = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[merged.dtype]
        tolerance *= 5 if problem.algorithm in ("dct", "tofu") else 1  # no convex combinations
        count = len(expected.kept)
        np.testing.assert_allclose(merged[sample, :count].double().numpy(), vectors, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(plan.merge_sizes(problem.sizes)[sample, :count].numpy(), totals, rtol=1e-6)


@pytest.mark.parametrize("energy", ["paper", "elu"])
@pytest.mark.parametrize("algorithm", ["pitome", "pitome_halves", "pitome_random_split", "pitome_unprotected"])
def test_alpha_scales_what_lies_below_the_margin(algorithm, energy):
    """Below the margin alpha is a factor, which no order depends on; even one beyond the range of the ranking keys."""
    features = torch.randn(2, 64, 8) + 0.3
    plans = [
        match(features, 0.7, TokenMasks(1), algorithm=algorithm, energy=energy, margin=0.9999, alpha=alpha)
        for alpha in (1.0, 1e12, 1e18)
    ]
    for plan in plans[1:]:
        assert torch.equal(plan.assignment, plans[0].assignment)


def test_without_alpha_only_what_lies_above_the_margin_counts():
    # Three loners in front, then a cluster. In it, the middle one is nearest to the others, then the one beside it.
    features = directions(0, 120, 240, 60, 61, 63)
    for energy in ("paper", "elu"):
        assert pairs_of(match(features, 0.8, algorithm="pitome", energy=energy, margin=0.9, alpha=0.0)) == {4: 3}


def test_equal_tokens_are_ranked_by_position():
    plan = match(torch.ones(2, 10, 4), 0.8, algorithm="pitome", energy="paper", margin=0.5)
    assert pairs_of(plan, 0) == pairs_of(plan, 1) == {0: 1, 2: 1}


def test_nothing_to_do():
    features = torch.randn(2, 6, 4)
    for algorithm in ALGORITHMS:
        assert match(features, 1.0, algorithm=algorithm) is None
        assert match(features, 0.9, algorithm=algorithm) is None  # 6 * 0.1 is less than one token
        assert match(features, 0.5, TokenMasks(num_prefix_tokens=5), algorithm=algorithm) is None
        assert match(features, 0.5, TokenMasks(num_prefix_tokens=6), algorithm=algorithm) is None


def test_an_empty_batch():
    for algorithm in ALGORITHMS:
        plan = match(torch.randn(0, 10, 4), 0.8, TokenMasks(attention=torch.ones(0, 10)), algorithm=algorithm)
        assert plan.merge(torch.randn(0, 10, 3)).shape == (0, 8, 3)


@pytest.mark.parametrize("gradients", [True, False])
def test_shapes_without_memory(gradients):
    features, attention = torch.randn(2, 10, 4, device="meta"), torch.rand(2, 10, device="meta")
    for algorithm in ALGORITHMS:
        with torch.set_grad_enabled(gradients):
            plan = match(features, 0.8, TokenMasks(attention=attention), algorithm=algorithm)
            assert plan.merge(features).shape == (2, 8, 4)
    assert pairwise_similarity(features).shape == (2, 10, 10)


def test_one_mask_for_the_whole_batch():
    features, valid, attention = torch.randn(3, 12, 4), torch.arange(12)[None] < 9, torch.rand(3, 12)
    for algorithm in ALGORITHMS:
        one = match(features, 0.7, TokenMasks(valid=valid, attention=attention), algorithm=algorithm)
        masks = TokenMasks(valid=valid.expand(3, -1), attention=attention)
        each = match(features, 0.7, masks, algorithm=algorithm)
        assert torch.equal(one.assignment, each.assignment) and torch.equal(one.valid, each.valid)
        hidden_states = torch.randn(3, 12, 5)
        assert torch.equal(one.merge(hidden_states), each.merge(hidden_states))
