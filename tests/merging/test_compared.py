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

"""ToFu, DCT and DiffRate by hand; what becomes of a group: kinds of plans, gradients, half precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from merging import reference
from merging.problems import problems
from merging.test_matching import directions, match, pairs_of

from optimum_pitome.merging import KeepRatio, MergePlan, MergeSpec, TokenMasks, match_tokens
from optimum_pitome.merging.combine import MlerpPlan, PruningPlan, TargetPlan, keep_norm
from optimum_pitome.methods import ALGORITHMS


#: Tokens 0 and 2 join token 1; token 3 stays alone.
GROUPS = {
    "kept": torch.tensor([[1, 3]]),
    "source": torch.tensor([[0, 2]]),
    "destination": torch.tensor([[0, 0]]),
    "assignment": torch.tensor([[0, 0, 0, 1]]),
}
VECTORS = torch.tensor([[[0.0, 3.0], [4.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
SIZES = torch.tensor([[1.0, 2.0, 1.0, 4.0]])


def test_mlerp_by_hand():
    # The mean is (0 + 8 + 0, 3 + 0 + 1) / 4 = (2, 1), its norm √5; the longest of the three has norm 4.
    plan = MlerpPlan(**GROUPS)
    expected = torch.tensor([[[8 / math.sqrt(5), 4 / math.sqrt(5)], [5.0, 5.0]]])
    torch.testing.assert_close(plan.merge(VECTORS, SIZES), expected)
    assert plan.merge_sizes(SIZES).tolist() == [[4.0, 4.0]]
    # A pair that does not merge does not lend its norm either.
    only_last = MlerpPlan(**GROUPS, source_mask=torch.tensor([[False, True]]))
    torch.testing.assert_close(only_last.merge(VECTORS)[0, 0], torch.tensor([2.0, 0.5]) * (4 / math.hypot(2, 0.5)))


def test_means_that_keep_their_norm_by_hand():
    # The mean is (2, 1), see above; the norms 3, 4 and 1 have the mean 3 with these sizes.
    plan = MergePlan(**GROUPS)
    mean = plan.merge(VECTORS, SIZES)
    for share in (1.0, 0.5):
        kept = keep_norm(plan, VECTORS, mean, share, SIZES)
        torch.testing.assert_close(kept[0, 0], torch.tensor([2.0, 1.0]) * (3 / math.sqrt(5)) ** share)
        assert torch.equal(kept[0, 1], VECTORS[0, 3])  # nothing joined it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_norms_of_vectors_that_cancel(dtype):
    """Opposite, zero and padding vectors: finite results and gradients."""
    values = [[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [3.0, -4.0], [3.0, 4.0]]
    hidden_states = torch.tensor([values], dtype=dtype, requires_grad=True)
    place = torch.arange(0, 6, 2)[None]
    counted = torch.tensor([[True, True, False, False, True, True]])
    plan = MergePlan(place, place + 1, torch.arange(3)[None], torch.arange(6)[None] // 2, counted=counted)
    kept = keep_norm(plan, hidden_states, plan.merge(hidden_states), 0.5)
    kept.float().sum().backward()
    assert kept.dtype == dtype and kept.isfinite().all() and hidden_states.grad.isfinite().all()
    torch.testing.assert_close(kept[0, 2].float(), torch.tensor([3.0, 0.0]) * (5 / 3) ** 0.5, atol=0.02, rtol=0)


def test_what_stays_of_a_target_by_hand():
    target, prune = TargetPlan(**GROUPS), PruningPlan(**GROUPS)
    assert target.merge(VECTORS, SIZES).tolist() == prune.merge(VECTORS, SIZES).tolist() == [[[4, 0], [5, 5]]]
    # ToFu's target stands for its sources, too; what is pruned is gone.
    assert target.merge_sizes(SIZES).tolist() == [[4.0, 4.0]]
    assert prune.merge_sizes(SIZES).tolist() == [[2.0, 4.0]]


def test_tofu_is_tome_with_other_means():
    features, hidden_states = torch.randn(2, 21, 8), torch.randn(2, 21, 5)
    plans = [match(features, 0.7, TokenMasks(1), algorithm="tome")]
    plans += [match(features, 0.7, TokenMasks(1), algorithm="tofu", combine=name) for name in ("target", "mlerp")]
    assert isinstance(plans[0], MergePlan) and [type(plan) for plan in plans[1:]] == [TargetPlan, MlerpPlan]
    for plan in plans[1:]:
        assert torch.equal(plan.source, plans[0].source) and torch.equal(plan.assignment, plans[0].assignment)
        assert torch.equal(plan.merge_sizes(torch.ones(2, 21)), plans[0].merge_sizes(torch.ones(2, 21)))
    longest = hidden_states.norm(dim=-1)
    for sample, slots in enumerate(plans[2].assignment):
        for slot, vector in enumerate(plans[2].merge(hidden_states)[sample]):
            assert vector.norm().item() == pytest.approx(longest[sample, slots == slot].max().item(), rel=1e-5)


def test_tofu_prunes_in_the_first_half():
    layers = [ALGORITHMS["tofu"].combine_in(index, 5) for index in range(5)]
    assert layers == ["target", "target", "mlerp", "mlerp", "mlerp"]


def test_diffrate_by_hand():
    # Behind CLS, by attention: 4, 2, 6, 1, 3, 5, 7. k = 3: 3, 5 and 7 go; 7 is dropped, 3 and 5 merge.
    features = directions(0, 10, 50, 48, 90, 93, 200, 205)
    attention = torch.tensor([[0.2, 0.1, 0.15, 0.09, 0.2, 0.08, 0.12, 0.01]])
    plan = match(features, 0.55, TokenMasks(1, attention=attention), algorithm="diffrate")
    assert pairs_of(plan) == {3: 2, 5: 4}
    assert plan.kept.tolist() == [[0, 1, 2, 4, 6]]
    assert plan.assignment.tolist() == [[0, 1, 2, 2, 3, 3, 4, 4]]  # to unmerge, 7 counts as what it resembles: 6
    assert plan.merge_sizes(torch.ones(1, 8)).tolist() == [[1, 1, 2, 2, 1]]
    # One token that goes merges: half of one, rounded down, is dropped.
    one = match(features, 0.85, TokenMasks(1, attention=attention), algorithm="diffrate")
    assert pairs_of(one) == {7: 6} and one.merge_sizes(torch.ones(1, 8)).sum() == 8


def test_diffrate_tells_small_attention_apart():
    """Among many tokens the attention of each is tiny, and differences between them still smaller."""
    attention = (1.0 + torch.arange(512).flip(0) * 1e-5).unsqueeze(0) / 4096
    plan = match(torch.randn(1, 512, 4), 0.9, TokenMasks(attention=attention), algorithm="diffrate")
    assert plan.kept.tolist() == [list(range(461))]


def test_diffrate_without_attention():
    with pytest.raises(ValueError, match="algorithm='diffrate' ranks tokens by the attention of the class token"):
        match(torch.randn(1, 10, 4), 0.8, algorithm="diffrate")


def test_dct_by_hand():
    # M = 2, n = 1: the lowest frequency is the mean.
    plan = match(torch.zeros(1, 3, 1), 0.5, TokenMasks(1), algorithm="dct")
    assert plan.merge(torch.tensor([[[7.0], [1.0], [3.0]]])).flatten().tolist() == pytest.approx([7, 2])
    assert plan.merge_sizes(torch.ones(1, 3)).tolist() == [[1, 2]]
    # M = 4, n = 2 of (1, 0, 0, 0): X0 = 1/2, X1 = cos(π/8)/√2. Back at length 2, times √(2/4):
    # (X0 / √2 ± X1 cos(π/4)) / √2 = 1/4 ± cos(π/8)/(2√2).
    plan = match(torch.zeros(1, 4, 1), 0.5, algorithm="dct")
    second = math.cos(math.pi / 8) / (2 * math.sqrt(2))
    merged = plan.merge(torch.tensor([[[1.0], [0.0], [0.0], [0.0]]]))
    assert merged.flatten().tolist() == pytest.approx([0.25 + second, 0.25 - second])
    # The results stand in the middle of the halves; tokens 0 and 1 are nearest to the first.
    assert plan.assignment.tolist() == [[0, 0, 1, 1]] and plan.kept.tolist() == [[1, 3]]


def test_dct_keeps_constants_and_what_is_smooth():
    plan = match(torch.zeros(2, 201, 1), 0.85, TokenMasks(1), algorithm="dct")
    places = torch.arange(200) + 0.5
    wave = torch.cos(3 * math.pi * places / 200)
    hidden_states = torch.stack([torch.full((200,), 5.0), wave], dim=-1).expand(2, -1, -1)
    merged = plan.merge(torch.cat([torch.zeros(2, 1, 2), hidden_states], dim=1))
    assert merged.shape == (2, 171, 2)
    torch.testing.assert_close(merged[:, 1:, 0], torch.full((2, 170), 5.0), atol=2e-5, rtol=0)
    # A frequency that is kept is the same wave over the shorter sequence.
    shorter = torch.cos(3 * math.pi * (torch.arange(170) + 0.5) / 170)
    torch.testing.assert_close(merged[:, 1:, 1], shorter.expand(2, -1), atol=1e-5, rtol=0)


@settings(max_examples=100)
@given(problems(algorithms=("dct",)))
def test_dct_keeps_the_mass_and_mixes_no_others(problem):
    plan = problem.plan()
    if plan is None:
        return
    sizes = plan.merge_sizes(problem.sizes)
    changed = problem.hidden_states.clone()
    for sample in range(len(sizes)):
        real = problem.real(sample)
        slots = slice(None) if plan.valid is None else plan.valid[sample]
        assert sizes[sample, slots].sum().item() == pytest.approx(problem.sizes[sample, real].sum().item(), rel=1e-5)
        # Whatever stands in padding and in special tokens, nobody else sees it.
        outside = [i for i in range(changed.shape[1]) if problem.masks.mergeable() is not None]
        outside = [i for i in outside if i < problem.num_prefix or not problem.masks.mergeable()[sample, i]]
        changed[sample, [*range(problem.num_prefix), *outside]] += 3.0
    before, after = plan.merge(problem.hidden_states), plan.merge(changed)
    place = plan.cell.expand(len(sizes), -1)
    assert torch.equal(before[place >= 0], after[place >= 0])


@pytest.mark.parametrize(("length", "n"), [(10, 9), (10, 5), (64, 58), (100, 57)])
def test_dct_is_the_transform_of_the_definition(length, n):
    hidden_states = torch.randn(2, length, 4)
    merged = match(torch.zeros(2, length, 1), n / length, algorithm="dct").merge(hidden_states)
    for sample in range(2):
        expected = reference.dct(hidden_states[sample].double().numpy(), n)
        np.testing.assert_allclose(merged[sample], expected, atol=5e-6)


def test_protected_tokens_are_no_part_of_the_sequence():
    protected = torch.zeros(1, 12, dtype=torch.bool)
    protected[0, [2, 7]] = True
    hidden_states = torch.randn(1, 12, 3)
    plan = match(torch.zeros(1, 12, 1), 0.7, TokenMasks(1, protected=protected), algorithm="dct")
    merged = plan.merge(hidden_states)
    slots = plan.assignment[0, [2, 7]]
    assert merged.shape == (1, 9, 3) and torch.equal(merged[0, slots], hidden_states[0, [2, 7]])
    others = [i for i in range(1, 12) if i not in (2, 7)]
    expected = reference.dct(hidden_states[0, others].double().numpy(), 6)  # 9 others, 3 less
    rest = [slot for slot in range(1, 9) if slot not in slots.tolist()]
    np.testing.assert_allclose(merged[0, rest], expected, atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "combine"), [("tofu", "target"), ("tofu", "mlerp"), ("diffrate", None), ("dct", None)]
)
def test_gradients_in_double_precision(algorithm, combine, masked):
    torch.manual_seed(0)
    hidden_states = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    valid = torch.arange(9).expand(2, -1) < torch.tensor([[9], [7]]) if masked else None
    spec = MergeSpec(KeepRatio.from_float(0.6), algorithm=algorithm, combine=combine)
    plan = match_tokens(hidden_states, spec, TokenMasks(1, valid, attention=torch.rand(2, 9)))
    sizes = torch.randint(1, 4, (2, 9)).float()

    def merge(x):
        merged = plan.unmerge(plan.merge(x, sizes.double()))
        return merged if valid is None else merged * valid.unsqueeze(-1)

    # The matrices of the DCT are float32.
    tolerance = {"atol": 1e-5, "rtol": 1e-3}
    assert torch.autograd.gradcheck(merge, hidden_states, **tolerance)


@pytest.mark.parametrize("combine", ["mlerp", "target"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_vectors_that_cancel_and_large_ones(dtype, combine):
    """Opposite, zero and very large vectors: finite results and gradients, in every dtype."""
    values = [[6e4, 6e4], [6e4, -6e4], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0], [0.0, 0.0], [6e4, 6e4], [-6e4, 6e4]]
    hidden_states = torch.tensor([values], dtype=dtype, requires_grad=True)
    place = torch.arange(0, 8, 2)[None]
    plan = {"mlerp": MlerpPlan, "target": TargetPlan}[combine](
        place, place + 1, torch.arange(4)[None], torch.arange(8)[None] // 2
    )
    merged = plan.merge(hidden_states)
    merged.float().sum().backward()
    assert merged.dtype == dtype and merged.isfinite().all() and hidden_states.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dct_in_half_precision(dtype):
    hidden_states = torch.randn(2, 60, 4).sign() * 6e4
    plan = match(torch.zeros(2, 60, 1), 0.7, algorithm="dct")
    merged = plan.merge(hidden_states.to(dtype))
    assert merged.dtype == dtype and merged.isfinite().all()
    small = hidden_states / 6e4
    torch.testing.assert_close(plan.merge(small.to(dtype)).float(), plan.merge(small), atol=1e-2, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plan.merge(small), plan.merge(small))
