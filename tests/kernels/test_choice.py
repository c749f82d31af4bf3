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

"""Where the kernels run, with fakes in their place: no Triton, no GPU."""

import types
import warnings

import pytest
import torch

import optimum_pitome
from optimum_pitome import use_kernels
from optimum_pitome.kernels import choice
from optimum_pitome.merging import KeepRatio, MergePlan, MergeSpec, TokenMasks, match_tokens, merge_tokens
from optimum_pitome.merging import launches as launches_module
from optimum_pitome.merging.algorithms import match_pitome, match_tome
from optimum_pitome.merging.attention import class_attention
from optimum_pitome.merging.fused import FusedPlan
from optimum_pitome.merging.masks import weights_of


SPEC = MergeSpec(KeepRatio.from_float(0.75))
CPU = torch.device("cpu")


class Fakes:
    """Launchers that compute with PyTorch, and note that they were called.

    Attributes:
        calls (`list[str]`): the names of what was launched.
        fail (`dict[str, Exception]`): what raises instead.
        spoil (`set[str]`): what gives wrong results.
    """

    def __init__(self):
        self.calls, self.fail, self.spoil = [], {}, set()

    def _note(self, name):
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def match(self, features, attention, valid, special, protected, prefix, num_pairs, num_kept, *settings):
        self._note("match")
        *settings, ends = settings
        assert ends == (0, 0)
        attention = None if attention is None else attention.mean(dim=1)
        *removed, energy, margin, alpha, exponent = settings
        ratio, importance = KeepRatio(*removed), 2 * exponent
        masks = TokenMasks(prefix, valid, special, 0, attention, protected)
        if energy == "tome":
            plan = match_tome(features.mean(dim=1), MergeSpec(ratio, "tome", importance=importance), masks)
        else:
            spec = MergeSpec(ratio, energy=energy, margin=margin, alpha=alpha, importance=importance)
            plan = match_pitome(features.mean(dim=1), spec, masks)
        assert plan.num_kept == num_kept and plan.source.shape[1] == num_pairs
        real = torch.ones_like(plan.source, dtype=torch.bool) if plan.source_mask is None else plan.source_mask
        valid = torch.ones_like(plan.kept, dtype=torch.bool) if plan.valid is None else plan.valid
        rows = plan.rows.flip(1) if "match" in self.spoil else plan.rows
        return tuple(it.contiguous() for it in (rows, plan.kept, plan.source, plan.target, real, valid))

    def merge(self, hidden_states, sizes, rows, counted, kept, source, target, mask, valid, original, *marks):
        self._note("merge")
        *marks, attention, weighted = marks
        plan = MergePlan(kept, source, None, None, mask, valid, rows, kept.shape[1], counted, target=target)
        sizes = torch.ones(rows.shape) if sizes is None else sizes
        totals = plan.merge_sizes(sizes)
        weights = (sizes, totals) if weighted else ()
        merged = plan.merge(hidden_states, *(weights if attention is None else (weights_of(attention),)))
        bias = totals.log().to(hidden_states.dtype)
        bias = bias if valid is None else bias.masked_fill(~valid, torch.finfo(bias.dtype).min)
        composed = rows.new_empty(0) if original is None else rows.flatten()[original]
        marks = [torch.empty(0, dtype=torch.bool) if mark is None else mark.gather(1, kept) for mark in marks]
        return merged, totals, bias, composed, *marks

    def class_attention(self, query, key, bias, valid, scaling):
        self._note("class_attention")
        assert bias is None and valid is None
        return ((query[:, :, :1] @ key.transpose(2, 3)).float() * scaling).softmax(dim=-1).squeeze(2)


@pytest.fixture
def fakes(monkeypatch):
    """Kernels that run on a CPU, nothing compared and nothing failed yet."""
    fakes = Fakes()
    for name in ("match", "merge", "class_attention"):
        monkeypatch.setattr(launches_module, f"launch_{name}", getattr(fakes, name))
        monkeypatch.setattr(f"optimum_pitome.merging.fused_checks.launch_{name}", getattr(fakes, name))
    monkeypatch.setattr(choice, "backend", lambda device: "triton")
    monkeypatch.setattr(choice, "_compared", set())
    monkeypatch.setattr(choice, "_given_up", set())
    monkeypatch.setattr(choice, "_enabled", True)
    return fakes


def expected_rows(features):
    return match_pitome(features, SPEC, TokenMasks()).rows


@pytest.mark.parametrize("numba", [True, False])
def test_a_cpu_has_kernels_with_numba(numba, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace() if numba else None)
    monkeypatch.setattr(choice, "backend", choice.backend.__wrapped__)
    assert choice.backend(CPU) == ("numba" if numba else None)
    monkeypatch.setattr(choice, "is_equal", lambda *_: numba)
    assert choice.may_run(CPU) == numba


@pytest.mark.parametrize(
    ("type", "hip", "triton", "capability", "has"),
    [
        ("cuda", None, True, (8, 0), True),
        ("cuda", None, True, (9, 0), True),
        ("cuda", None, True, (7, 5), False),
        ("cuda", "6.4", True, (9, 4), False),
        ("cuda", None, False, (9, 0), False),
        ("mps", None, True, (9, 0), False),
        ("xpu", None, True, (9, 0), False),
    ],
)
def test_which_devices_have_kernels(type, hip, triton, capability, has, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace() if triton else None)
    assert choice.backend.__wrapped__(torch.device(type)) == ("triton" if has else None)


def test_compared_once_and_then_used(fakes):
    features = torch.randn(2, 3, 12, 4)
    for _ in range(2):
        plan = match_tokens(features, SPEC)
        assert isinstance(plan, FusedPlan) and torch.equal(plan.rows, expected_rows(features.mean(dim=1)))
    assert fakes.calls == ["match"] * (2 + 2)  # the comparison has two inputs
    # Another dtype is another kernel.
    match_tokens(features.half(), SPEC)
    assert fakes.calls == ["match"] * (4 + 3)
    hidden_states = torch.randn(2, 12, 6)
    merged, sizes, log_sizes, rows, special, protected = merge_tokens(plan, hidden_states, *[None] * 5, True)
    assert fakes.calls[7:] == ["merge"] * 2
    assert torch.equal(merged, plan.merge(hidden_states)) and torch.equal(log_sizes, sizes.log())
    assert rows is plan.rows and special is protected is None


def test_a_difference_is_told_once(fakes):
    fakes.spoil.add("match")
    features = torch.randn(2, 12, 4)
    with pytest.warns(RuntimeWarning, match="of the tokens go where they should") as told:
        plan = match_tokens(features, SPEC)
    assert len(told) == 1 and "PITOME_KERNELS=0" in str(told[0].message) and "cpu" in str(told[0].message)
    assert type(plan) is MergePlan and torch.equal(plan.rows, expected_rows(features))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Nor is any other kernel tried on that device.
        assert type(match_tokens(features.half(), SPEC)) is MergePlan
        assert class_attention(*[torch.randn(1, 2, 5, 4)] * 2, None, None, 0.5).shape == (1, 5)
    assert fakes.calls == ["match"]


@pytest.mark.parametrize("error", [RuntimeError("PTX compile error\nline two"), ImportError("no triton")])
def test_what_does_not_compile_falls_back(fakes, error):
    fakes.fail["match"] = error
    features = torch.randn(2, 12, 4)
    with pytest.warns(RuntimeWarning, match=f"{type(error).__name__}: (line two|no triton)"):
        plan = match_tokens(features, SPEC)
    assert torch.equal(plan.rows, expected_rows(features))


def test_what_fails_later_falls_back(fakes):
    """A size that no comparison had may need more than a device has."""
    features, hidden_states = torch.randn(2, 12, 4), torch.randn(2, 12, 6)
    plan = match_tokens(features, SPEC)
    assert merge_tokens(plan, hidden_states, *[None] * 5, True) is not None
    fakes.fail["match"] = fakes.fail["merge"] = RuntimeError("out of resource: shared memory")
    with pytest.warns(RuntimeWarning, match="out of resource") as told:
        assert merge_tokens(plan, hidden_states, *[None] * 5, True) is None
        assert type(match_tokens(features, SPEC)) is MergePlan
    assert len(told) == 1


def test_no_memory_is_no_verdict(fakes):
    fakes.fail["match"] = torch.OutOfMemoryError("full")
    features = torch.randn(2, 12, 4)
    assert type(match_tokens(features, SPEC)) is MergePlan
    fakes.fail.clear()
    assert isinstance(match_tokens(features, SPEC), FusedPlan)


def test_switched_off(fakes):
    features = torch.randn(2, 12, 4)
    assert use_kernels(False) is True
    try:
        assert type(match_tokens(features, SPEC)) is MergePlan and fakes.calls == []
    finally:
        assert use_kernels(True) is False
    assert isinstance(match_tokens(features, SPEC), FusedPlan)


@pytest.mark.parametrize(("value", "on"), [("0", False), ("off", False), ("False", False), ("1", True), (None, True)])
def test_switched_off_by_the_environment(value, on):
    assert choice.is_on({} if value is None else {"PITOME_KERNELS": value}) == on


def test_attention_by_head_weighs_as_its_mean(fakes):
    query, key = torch.randn(2, 4, 12, 8), torch.randn(2, 4, 12, 8)
    by_head = class_attention(query, key, None, None, 0.3)
    assert by_head.shape == (2, 4, 12) and fakes.calls == ["class_attention"] * 2
    spec = MergeSpec(SPEC.ratio, importance=0.5)
    plan = match_tokens(key, spec, TokenMasks(1, attention=by_head))
    use_kernels(False)
    attention = class_attention(query, key, None, None, 0.3)
    torch.testing.assert_close(by_head.mean(dim=1), attention)
    for masks in (TokenMasks(1, attention=attention), TokenMasks(1, attention=by_head)):
        assert torch.equal(plan.rows, match_tokens(key, spec, masks).rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "tofu"},
        {"algorithm": "pitome_halves"},
        {"combine": "mlerp"},
        {"ratio": KeepRatio.from_float(1.0)},
    ],
    ids=["tofu", "halves", "mlerp", "dense"],
)
def test_what_has_no_kernel(fakes, settings):
    plan = match_tokens(torch.randn(2, 2, 12, 4), MergeSpec(**{"ratio": SPEC.ratio, **settings}))
    assert not isinstance(plan, FusedPlan) and fakes.calls == []


def test_what_tome_has_a_kernel_for(fakes):
    """Not for protected tokens: their number says who proposes."""
    features, spec = torch.randn(2, 2, 12, 4), MergeSpec(SPEC.ratio, "tome")
    protected = torch.arange(12).expand(2, -1) == 3
    masks = TokenMasks(1, protected=protected)
    assert not isinstance(match_tokens(features, spec, masks), FusedPlan) and fakes.calls == []
    plan = match_tokens(features, spec, TokenMasks(1))
    assert isinstance(plan, FusedPlan) and fakes.calls == ["match"] * 3  # the first two compare
    assert torch.equal(plan.rows, match_tome(features.mean(dim=1), spec, TokenMasks(1)).rows)


def test_other_dtypes_and_too_many_tokens_have_no_kernel(fakes):
    assert type(match_tokens(torch.randn(2, 12, 4, dtype=torch.float64), SPEC)) is MergePlan
    plan = match_tokens(torch.randn(1, 4200, 2), SPEC)
    assert type(plan) is MergePlan and merge_tokens(plan, torch.randn(1, 4200, 2), *[None] * 5, True) is None


def test_wrong_masks_are_refused(fakes):
    with pytest.raises(ValueError, match="1 samples of 11 tokens"):
        match_tokens(torch.randn(2, 12, 4), SPEC, TokenMasks(valid=torch.ones(1, 11, dtype=torch.bool)))


def test_exports_hold_no_kernel(fakes):
    class Matching(torch.nn.Module):
        def forward(self, features):
            return match_tokens(features, SPEC).rows

    features = torch.randn(2, 12, 4)
    exported = torch.export.export(Matching(), (features,))
    assert torch.equal(exported.module()(features), expected_rows(features)) and fakes.calls == []
    assert not any("fused" in str(node.target) for node in exported.graph.nodes)


def test_gradients_take_the_way_of_the_plan(fakes):
    features, sizes = torch.randn(2, 12, 4), torch.randint(1, 4, (2, 12)).float()
    plan = match_tokens(features, SPEC, TokenMasks(1))
    attention = torch.rand(2, 3, 12)
    for attention, weighted in ((None, True), (None, False), (attention, True)):
        hidden_states = torch.randn(2, 12, 6, requires_grad=True)
        merged, totals, log_sizes, *_ = merge_tokens(plan, hidden_states, sizes, *[None] * 3, attention, weighted)
        assert not totals.requires_grad and not log_sizes.requires_grad
        factor = torch.randn_like(merged)
        (gradient,) = torch.autograd.grad((merged * factor).sum(), hidden_states)
        weights = (sizes, totals) if weighted else ()
        expected = plan.merge(hidden_states, *(weights if attention is None else (attention.mean(dim=1),)))
        torch.testing.assert_close(gradient, torch.autograd.grad((expected * factor).sum(), hidden_states)[0])


def test_the_switch_is_public():
    assert optimum_pitome.use_kernels is choice.use_kernels and "use_kernels" in dir(optimum_pitome)
