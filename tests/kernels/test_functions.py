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

"""The kernels against the functions in PyTorch and against the reference: those of Numba, and those of Triton in its
interpreter where `make test-kernels` asks for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merging.problems import DTYPES, problems
from merging.test_matching import check

from optimum_pitome.kernels import choice
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, fused, launches, match_tokens, merge_tokens
from optimum_pitome.merging.attention import attention_over_heads
from optimum_pitome.merging.combine import keep_norm
from optimum_pitome.merging.fused import FusedPlan, match_fused
from optimum_pitome.merging.fused_checks import compare_class_attention, compare_match, compare_merge
from optimum_pitome.merging.masks import weights_of
from optimum_pitome.methods import ALGORITHMS


pytestmark = pytest.mark.usefixtures("kernels_on")
#: What may weigh in a mean.
CPU = torch.device("cpu")
WEIGHS = ("sizes", "attention", "nothing")
#: The fixture does not depend on the example.
SHARED = [HealthCheck.function_scoped_fixture]


@st.composite
def exact_problems(draw, num_tokens=st.integers(2, 40)):
    """Keys by head, whose mean's cosines are exact in float32, with as many ties as they like; and masks."""
    batch_size, tokens, heads = draw(st.integers(1, 3)), draw(num_tokens), draw(st.sampled_from([1, 2, 4]))
    width, dim = draw(st.sampled_from([(1, 1), (1, 3), (4, 4), (4, 7), (16, 16), (16, 41), (64, 64)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mean = np.zeros((batch_size, tokens, dim))
    mean[..., :width] = generator.integers(0, 2, (batch_size, tokens, width)) * 2 - 1
    features = np.repeat(mean[:, None], heads, axis=1)
    apart = generator.integers(-2, 3, mean.shape)
    if heads > 1:
        features[:, 0] += apart
        features[:, -1] -= apart
    prefix = draw(st.integers(0, min(3, tokens - 1)))
    masks = {"valid": None, "special": None, "protected": None}
    if draw(st.booleans()):
        lengths = generator.integers(1, tokens + 1, (batch_size, 1))
        masks["valid"] = np.arange(tokens) < lengths if draw(st.booleans()) else np.arange(tokens) >= tokens - lengths
    if draw(st.booleans()):
        masks["special"] = generator.random((batch_size, tokens)) < 0.2
    algorithm = draw(st.sampled_from(["pitome", "tome"]))
    if algorithm == "pitome" and draw(st.booleans()):
        masks["protected"] = generator.random((batch_size, tokens)) < draw(st.sampled_from([0.1, 0.6, 0.95]))
    masks = {name: None if mask is None else torch.tensor(mask) for name, mask in masks.items()}
    special = masks["special"]
    limit = 0 if special is None else int(special[:, prefix:].sum(dim=1).max()) + draw(st.integers(0, 1))
    attention = torch.full((batch_size, draw(st.sampled_from([1, 2, 8])), tokens), 0.25)
    spec = MergeSpec(
        KeepRatio.from_float(
            draw(st.sampled_from([0.5, 0.55, 0.7, 0.8, 0.9])),
            draw(st.sampled_from([0, 0, 5])),
            draw(st.sampled_from([1, 1, 4])),
        ),
        algorithm,
        importance=draw(st.sampled_from([0.0, 0.5])),
    )
    features = torch.tensor(features).to(draw(st.sampled_from(DTYPES)))
    return features, spec, TokenMasks(prefix, max_special=limit, attention=attention, **masks)


def assert_equal_plans(features, spec, masks):
    plan = match_fused(features, spec, masks)
    expected = ALGORITHMS[spec.algorithm].match(features.mean(dim=1), spec, masks.over_heads())
    assert (plan is None) == (expected is None)
    if plan is None:
        return None
    assert isinstance(plan, FusedPlan) and plan.num_kept == expected.num_kept
    assert torch.equal(plan.rows, expected.rows) and torch.equal(plan.kept, expected.kept)
    assert torch.equal(plan.assignment, expected.assignment)
    if expected.source_mask is None:
        assert plan.source_mask is plan.valid is plan.counted is None
        assert torch.equal(plan.source, expected.source) and torch.equal(plan.target, expected.target)
    else:
        real = expected.source_mask
        assert torch.equal(plan.source_mask, real) and torch.equal(plan.valid, expected.valid)
        assert torch.equal(plan.source[real], expected.source[real])
        assert torch.equal(plan.target[real], expected.target[real])
        counted = torch.ones_like(plan.rows, dtype=torch.bool) if plan.counted is None else plan.counted
        assert torch.equal(counted, expected.counted)
    return plan


@settings(max_examples=200, suppress_health_check=SHARED)
@given(exact_problems())
def test_exact_inputs_give_equal_plans(kernels_on, problem):
    assert_equal_plans(*problem)


@settings(max_examples=8, suppress_health_check=SHARED)
@given(exact_problems(num_tokens=st.sampled_from([65, 129, 197, 257, 300])))
def test_exact_inputs_of_many_tokens(kernels_on, problem):
    assert_equal_plans(*problem)


@pytest.mark.parametrize("num_tokens", [577, 1500])
def test_the_longest(num_tokens):
    mean = torch.randint(0, 2, (1, 1, num_tokens, 64)) * 2.0 - 1.0
    valid = torch.arange(num_tokens).unsqueeze(0) < num_tokens - 40
    masks = TokenMasks(1, valid, attention=torch.ones(1, 2, num_tokens))
    plan = assert_equal_plans(mean, MergeSpec(KeepRatio.from_float(0.9), importance=0.5), masks)
    hidden_states = torch.randn(1, num_tokens, 16, dtype=torch.bfloat16)
    merged, sizes, *_ = merge_tokens(plan, hidden_states, *[None] * 5, True)
    assert torch.equal(merged, plan.merge(hidden_states))
    assert torch.equal(sizes, plan.merge_sizes(torch.ones(1, num_tokens)))


def without_protection(problem):
    """ToMe's kernel takes no protected tokens."""
    return replace(problem, protected=None) if problem.algorithm == "tome" else problem


@settings(max_examples=120, suppress_health_check=SHARED)
@given(problems(algorithms=("pitome", "tome")))
def test_matching_against_the_reference(kernels_on, problem):
    problem = without_protection(problem)
    plan = problem.plan()
    has_kernel = choice.backend(CPU) == "triton" or problem.algorithm == "tome" or problem.energy == "nearest"
    assert plan is None or isinstance(plan, FusedPlan) == has_kernel
    check(problem)


@settings(max_examples=80, suppress_health_check=SHARED)
@given(
    problems(algorithms=("pitome", "tome")),
    st.booleans(),
    st.sampled_from(WEIGHS),
    st.booleans(),
    st.sampled_from((0.0, 0.5, 1.0)),
)
def test_merging_is_that_of_the_plan(kernels_on, problem, sized, weighs, moved, kept_norm):
    """Bit for bit: a group is added in the order of the tokens, which is what PyTorch does on a CPU. Only norms are
    summed in another order."""
    problem = without_protection(problem)
    plan = problem.plan()
    if not isinstance(plan, FusedPlan):
        return
    rows = torch.randint(0, plan.rows.numel(), (len(plan.rows), 31)) if moved else None
    real = torch.ones_like(plan.rows) if problem.valid is None else problem.valid
    sizes = problem.sizes * real if sized else None
    marks = problem.special, problem.protected
    # Means over two heads that nothing rounds.
    attention = torch.randint(0, 9, (len(plan.rows), 2, plan.rows.shape[1])) / 8 if weighs == "attention" else None
    found = merge_tokens(plan, problem.hidden_states, sizes, rows, *marks, attention, weighs == "sizes", kept_norm)
    merged, merged_sizes, log_sizes, after, *marks_after = found
    totals = plan.merge_sizes(torch.ones_like(problem.sizes) if sizes is None else sizes)
    assert torch.equal(merged_sizes, totals)
    weights = (sizes, totals) if sized and weighs == "sizes" else ()
    weights = weights if attention is None else (weights_of(attention),)
    expected = plan.merge(problem.hidden_states, *weights)
    if kept_norm:
        expected = keep_norm(plan, problem.hidden_states, expected, kept_norm, *weights)
        step = 8 * torch.finfo(merged.dtype).eps
        torch.testing.assert_close(merged, expected, atol=step, rtol=step)
        joined = plan.merge_sizes(torch.ones_like(problem.sizes)) > 1
        merged, expected = merged[~joined], expected[~joined]
    assert torch.equal(merged, expected)
    assert torch.equal(after, plan.rows if rows is None else plan.rows.flatten()[rows])
    for mark, mark_after in zip(marks, marks_after):
        assert mark_after is None if mark is None else torch.equal(mark_after, mark.gather(1, plan.kept))
    lowest = torch.finfo(merged.dtype).min
    expected = totals.log().to(merged.dtype)
    expected = expected if plan.valid is None else expected.masked_fill(~plan.valid, lowest)
    step = torch.finfo(merged.dtype).eps
    torch.testing.assert_close(log_sizes, expected, atol=step, rtol=step)


@settings(max_examples=40, suppress_health_check=SHARED)
@given(st.integers(1, 70), st.sampled_from([1, 3, 16, 40]), st.sampled_from(DTYPES), st.data())
def test_class_attention(kernels_on, num_tokens, dim, dtype, data):
    draw = data.draw
    heads, shared = draw(st.sampled_from([(1, 1), (2, 1), (6, 2)]))
    key = torch.randn(2, num_tokens, heads // shared, dim).to(dtype).transpose(1, 2)
    query = torch.randn(2, heads, num_tokens, dim).to(dtype)
    shape = draw(st.sampled_from([None, (2, 1, 1), (1, heads, num_tokens), (2, heads, num_tokens)]))
    bias = None if shape is None else torch.randn(*shape, num_tokens)
    if bias is not None:
        bias = bias > 0 if draw(st.booleans()) else bias.to(dtype)
    valid = draw(st.sampled_from([None, torch.arange(num_tokens) >= torch.tensor([[0], [num_tokens // 2]])]))
    found = fused.class_attention_fused(query, key, bias, valid, dim**-0.5)
    if choice.backend(CPU) == "numba" and bias is not None and bias.shape[2] > 1:
        assert found is None  # a row for each query
        return
    assert found.shape == (2, heads if choice.backend(CPU) == "triton" else 1, num_tokens)
    expected = attention_over_heads(query, key.repeat_interleave(shared, dim=1), bias, valid, dim**-0.5)
    torch.testing.assert_close(found.mean(dim=1), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("energy", ["nearest", "tome"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_what_is_no_number_breaks_nothing(value, energy):
    """Plans of such tokens mean little, but name tokens that exist, each once."""
    keys = torch.randn(2, 2, 50, 8)
    keys[:, :, ::3] = value
    numbers = 1, 12, 38, 1, 4, 0, 1, energy, 0.9, 1.0, 0.25
    rows, kept, source, target, *_ = launches.launch_match(keys, None, None, None, None, *numbers, (0, 0))
    for sample in range(2):
        assert sorted(kept[sample].tolist() + source[sample].tolist()) == list(range(50))
        assert set(target[sample].tolist()) <= set(kept[sample].tolist())
        assert rows[sample].min() == sample * 38 and rows[sample].max() == sample * 38 + 37


def test_mutual_nearest_neighbours_are_opposite():
    """Whatever the order in which a product adds, equal energies are equal: neighbouring ranks, opposite sides."""
    keys = torch.randn(1, 1, 200, 48)
    similarity = torch.nn.functional.normalize(keys[0, 0], dim=-1)
    similarity = (similarity @ similarity.T).fill_diagonal_(-1)
    nearest = similarity.argmax(dim=1)
    plan = match_tokens(keys, MergeSpec(KeepRatio.from_float(0.6)))
    source, target = set(plan.source[0].tolist()), set(range(200)) - set(plan.source[0].tolist())
    mutual = [i for i in range(200) if nearest[nearest[i]] == i]
    assert len(mutual) > 20
    for i in mutual:
        assert (i in source) == (nearest[i].item() in target) or i not in source


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_comparisons_of_first_use_pass(dtype):
    compare_match(CPU, "nearest", dtype)
    compare_match(CPU, "tome", dtype)
    if choice.backend(CPU) == "triton":
        compare_match(CPU, "paper", dtype, 20, False, False, False, False)
    for weighs in WEIGHS:
        compare_merge(CPU, weighs, dtype)
    compare_class_attention(CPU, dtype, 48, dtype)


def test_the_comparisons_notice(monkeypatch):
    """Another plan, other vectors, other attention."""
    device = torch.device("cpu")
    given = {name: getattr(launches, f"launch_{name}") for name in ("match", "merge", "class_attention")}
    spoilt = {
        "match": lambda *a: (given["match"](*a)[0].flip(1), *given["match"](*a)[1:]),
        "merge": lambda *a: (given["merge"](*a)[0] * 1.1, *given["merge"](*a)[1:]),
        "class_attention": lambda *a: given["class_attention"](*a).flip(2),
    }
    for name, launch in spoilt.items():
        monkeypatch.setattr(f"optimum_pitome.merging.fused_checks.launch_{name}", launch)
    with pytest.raises(RuntimeError, match="of the tokens go where they should"):
        compare_match(device, "nearest", "float32", 16, False, False, False, False)
    with pytest.raises(AssertionError):
        compare_merge(device, "sizes", "float32", 16, False, False, False, False, False)
    with pytest.raises(AssertionError):
        compare_class_attention(device, "float32", 16, "none", False)
