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

"""What holds for every plan: partition, order, static lengths, padding, merging, unmerging, gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging.problems import COMPARED, MATCHING, problems

from optimum_pitome.merging import KeepRatio, MergePlan, MergeSpec, TokenMasks, match_tokens
from optimum_pitome.methods import ALGORITHMS


EVERY = (*MATCHING, *COMPARED, "random")


@settings(max_examples=300)
@given(problems(algorithms=EVERY))
def test_a_plan_is_a_partition(problem):
    plan = problem.plan()
    if plan is None:
        return
    batch_size, num_tokens = problem.features.shape[:2]
    mergeable = problem.masks.mergeable()
    num_kept = plan.kept.shape[1]
    keep = KeepRatio.from_float(float(problem.ratio))
    # Static: the length depends on shapes and on the promised number of special tokens only.
    assert num_kept == num_tokens - keep.num_removed(max(num_tokens - problem.num_prefix - problem.max_special, 0))
    for sample in range(batch_size):
        real = problem.real(sample)
        may_merge = [i for i in range(problem.num_prefix, num_tokens) if mergeable is None or mergeable[sample, i]]
        kept = plan.kept[sample].tolist()
        if plan.valid is not None:
            count = int(plan.valid[sample].sum())
            assert plan.valid[sample, :count].all()  # fillers come after the real ones
            kept = kept[:count]
        assert kept == sorted(set(kept)) and set(kept) <= set(real)
        assert len(kept) == len(real) - keep.num_removed(len(may_merge))
        # Every real token is in the group of exactly one survivor; who survives is in its own.
        slots = plan.assignment[sample].tolist()
        assert all(0 <= slot < num_kept for slot in slots)
        assert all(slots[token] < len(kept) for token in real)
        assert all(slots[token] == slot for slot, token in enumerate(kept))
        # Whoever shares a group may merge; pads, special and protected tokens are alone.
        unprotected = [i for i in may_merge if problem.protected is None or not problem.protected[sample, i]]
        if len(unprotected) > keep.num_removed(len(may_merge)):
            may_merge = unprotected
        for token in set(real) - set(kept):
            assert token in may_merge and kept[slots[token]] in may_merge


@settings(max_examples=200)
@given(problems(algorithms=EVERY), st.floats(0, 1))
def test_protection_never_changes_the_length(problem, share):
    """None, a few, or all tokens protected: shapes and the number of real tokens left are the same, and none of up to
    `M - k - 1` protected tokens is in a group with another."""
    plain = replace(problem, protected=None).plan()
    if plain is None:
        return
    counted = torch.ones_like(problem.sizes).bool() if (m := problem.masks.mergeable()) is None else m
    protected = torch.rand(problem.sizes.shape, generator=torch.Generator().manual_seed(0)) < share
    for mask in (protected, torch.ones_like(protected)):
        plan = replace(problem, protected=mask).plan()
        assert plan.kept.shape == plain.kept.shape and plan.assignment.shape == plain.assignment.shape
        if plain.valid is not None:
            assert torch.equal(plan.valid.sum(dim=1), plain.valid.sum(dim=1)), "a sample got longer"
    plan = replace(problem, protected=protected).plan()
    keep = KeepRatio.from_float(float(problem.ratio))
    for sample in range(len(protected)):
        may_merge = counted[sample].clone()
        may_merge[: problem.num_prefix] = False
        number = int(may_merge.sum())
        chosen = protected[sample] & may_merge
        if int(chosen.sum()) >= number - keep.num_removed(number):
            continue
        real = problem.real(sample)
        for token in chosen.nonzero().flatten().tolist():
            assert (plan.assignment[sample, real] == plan.assignment[sample, token]).sum() == 1


@settings(max_examples=200)
@given(problems(algorithms=(*MATCHING, "tofu")))
def test_sizes_add_up_to_the_real_tokens(problem):
    plan = problem.plan()
    if plan is None:
        return
    sizes = plan.merge_sizes(problem.sizes)
    assert sizes.dtype == torch.float32
    for sample in range(len(sizes)):
        slots = sizes[sample] if plan.valid is None else sizes[sample, plan.valid[sample]]
        assert slots.sum() == problem.sizes[sample, problem.real(sample)].sum()
        for slot in range(len(slots)):
            members = [token for token in problem.real(sample) if plan.assignment[sample, token] == slot]
            assert sizes[sample, slot] == problem.sizes[sample, members].sum()


@settings(max_examples=150)
@given(problems(algorithms=EVERY))
def test_unmerge_gives_each_token_its_group(problem):
    plan = problem.plan()
    if plan is None:
        return
    merged = plan.merge(problem.hidden_states, problem.sizes)
    restored = plan.unmerge(merged)
    assert restored.shape == problem.hidden_states.shape
    for sample in range(len(restored)):
        for token in problem.real(sample):
            members = [i for i in problem.real(sample) if plan.assignment[sample, i] == plan.assignment[sample, token]]
            if problem.algorithm == "dct":
                assert torch.equal(restored[sample, token], merged[sample, plan.assignment[sample, token]])
            elif len(members) == 1:  # bit for bit
                assert torch.equal(restored[sample, token], problem.hidden_states[sample, token])
            elif problem.algorithm in MATCHING:
                weights = problem.sizes[sample, members, None].double()
                mean = (problem.hidden_states[sample, members].double() * weights).sum(0) / weights.sum()
                error = (restored[sample, token].double() - mean).abs().max()
                assert error <= {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}[restored.dtype]


@settings(max_examples=100)
@given(problems(algorithms=EVERY))
def test_a_mean_is_computed_in_float32_and_rounded_once(problem):
    """Bit for bit: half precision in, the float32 mean rounded out; no weights are weights of one."""
    plan, hidden_states, sizes = problem.plan(), problem.hidden_states, problem.sizes
    if plan is None:
        return
    merged = plan.merge(hidden_states, sizes)
    assert torch.equal(merged, plan.merge(hidden_states.float(), sizes).to(hidden_states.dtype))
    assert torch.equal(merged, plan.merge(hidden_states, sizes, plan.merge_sizes(sizes)))
    assert torch.equal(plan.merge(hidden_states.float()), plan.merge(hidden_states.float(), torch.ones_like(sizes)))


@settings(max_examples=100)
@given(problems(algorithms=EVERY, dtypes=(torch.float32,), padding=("left", "right", "scattered"), prefixes=0))
def test_padding_and_batch_change_nothing(problem):
    plan = problem.plan()
    if plan is None:
        return
    merged = plan.merge(problem.hidden_states, problem.sizes)
    for sample in range(len(problem.features)):
        real = problem.real(sample)
        special = None if problem.special is None else problem.special[[sample]][:, real]
        features, hidden_states = problem.features[[sample]][:, real], problem.hidden_states[[sample]][:, real]
        max_special = 0 if special is None else int(special.sum())
        attention = problem.attention[[sample]][:, real]
        protected = None if problem.protected is None else problem.protected[[sample]][:, real]
        masks = TokenMasks(0, None, special, max_special, attention, protected)
        alone = match_tokens(features, problem.spec, masks)
        if alone is None:
            assert int(plan.valid[sample].sum()) == len(real)
            continue
        count = int(plan.valid[sample].sum())
        assert alone.kept.shape[1] == count
        assert [real[token] for token in alone.kept[0].tolist()] == plan.kept[sample, :count].tolist()
        torch.testing.assert_close(
            alone.merge(hidden_states, problem.sizes[[sample]][:, real])[0],
            merged[sample, :count],
            atol=5e-6 if problem.algorithm in COMPARED else 2e-6,
            rtol=0,
        )


@settings(max_examples=50)
@given(problems(algorithms=EVERY, dtypes=(torch.float32,)))
def test_the_order_of_the_batch_changes_nothing(problem):
    plan = problem.plan()
    rows = list(reversed(range(len(problem.features))))
    other = problem.take(rows).plan()
    if plan is None:
        assert other is None
        return
    assert torch.equal(plan.kept[rows], other.kept) and torch.equal(plan.assignment[rows], other.assignment)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_changed_in_place(algorithm):
    features, sizes, valid = torch.randn(2, 12, 4), torch.ones(2, 12), torch.arange(12).expand(2, -1) < 10
    copies = features.clone(), sizes.clone(), valid.clone()
    masks = TokenMasks(1, valid, attention=torch.rand(2, 12))
    plan = match_tokens(features, MergeSpec(KeepRatio.from_float(0.7), algorithm=algorithm), masks)
    plan.merge(features, sizes), plan.merge_sizes(sizes), plan.unmerge(plan.merge(features))
    assert all(torch.equal(before, now) for before, now in zip(copies, (features, sizes, valid)))


@pytest.mark.parametrize("algorithm", MATCHING)
def test_gradients_reach_every_token_by_its_weight(algorithm):
    hidden_states = torch.randn(2, 20, 4, requires_grad=True)
    sizes = torch.randint(1, 5, (2, 20)).float()
    spec = MergeSpec(KeepRatio.from_float(0.6), algorithm=algorithm)
    plan = match_tokens(hidden_states, spec, TokenMasks(1))
    assert not plan.assignment.requires_grad
    plan.merge(hidden_states, sizes).sum().backward()
    totals = plan.merge_sizes(sizes).gather(1, plan.assignment)
    torch.testing.assert_close(hidden_states.grad, (sizes / totals).unsqueeze(-1).expand(-1, -1, 4))


def test_gradients_in_double_precision():
    hidden_states = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    plan = match_tokens(hidden_states, MergeSpec(KeepRatio.from_float(0.7)))
    assert torch.autograd.gradcheck(lambda x: plan.unmerge(plan.merge(x)), hidden_states)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays_and_half_precision_does_not_overflow(dtype):
    hidden_states = torch.full((1, 10, 2), 60000.0 if dtype == torch.float16 else 1e30, dtype=dtype)
    plan = match_tokens(torch.randn(1, 10, 4).to(dtype), MergeSpec(KeepRatio.from_float(0.5)))
    merged = plan.merge(hidden_states, torch.full((1, 10), 3000.0))
    assert merged.dtype == dtype
    torch.testing.assert_close(merged, hidden_states[:, :5])


def test_weighted_mean_by_hand():
    # Tokens 0 (size 1) and 2 (size 3) join token 1 (size 2); token 3 stays alone.
    plan = MergePlan(
        kept=torch.tensor([[1, 3]]),
        source=torch.tensor([[0, 2]]),
        destination=torch.tensor([[0, 0]]),
        assignment=torch.tensor([[0, 0, 0, 1]]),
    )
    hidden_states = torch.tensor([[[6.0], [12.0], [18.0], [5.0]]])
    sizes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert plan.merge(hidden_states, sizes).tolist() == [[[14.0], [5.0]]]
    assert plan.merge(hidden_states).tolist() == [[[12.0], [5.0]]]
    assert plan.merge_sizes(sizes).tolist() == [[6.0, 4.0]]
    assert plan.unmerge(torch.tensor([[[1.0], [2.0]]])).tolist() == [[[1.0], [1.0], [1.0], [2.0]]]


def test_source_tracing_over_layers():
    # Composing the plans of several layers gives the group of every original token; its mean is the merged token.
    hidden_states = torch.randn(3, 40, 6)
    tokens, sizes, assignment = hidden_states, torch.ones(3, 40), None
    for _ in range(4):
        plan = match_tokens(tokens, MergeSpec(KeepRatio.from_float(0.7)), TokenMasks(1))
        tokens, sizes = plan.merge(tokens, sizes), plan.merge_sizes(sizes)
        assignment = plan.assignment if assignment is None else plan.assignment.gather(1, assignment)
    for sample in range(3):
        for slot in range(tokens.shape[1]):
            members = (assignment[sample] == slot).nonzero().flatten()
            assert sizes[sample, slot] == len(members)
            torch.testing.assert_close(tokens[sample, slot], hidden_states[sample, members].mean(0))
