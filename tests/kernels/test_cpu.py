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

"""Models whose merge step runs in Numba's loops, as they do wherever it is installed."""

import hashlib
import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from modeling.counting import operations_of_layers
from modeling.helpers import CASES
from modeling.test_launches import layers_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode
from zoo.text import text_inputs

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled
from optimum_pitome.benchmarking.machine import machine
from optimum_pitome.benchmarking.report import Report
from optimum_pitome.evaluation.evaluation import hardware_of
from optimum_pitome.kernels import choice
from optimum_pitome.kernels.cpu import launch
from optimum_pitome.merging import (
    KeepRatio,
    MergePlan,
    MergeSpec,
    TokenMasks,
    fused,
    launches,
    match_tokens,
    merge_tokens,
)
from optimum_pitome.merging.fused import FusedPlan, match_fused


CPU = torch.device("cpu")
#: What the defaults of texts are with a budget.
OF_A_BUDGET = {"algorithm": "tome", "importance": 0.75, "weighted_by": "attention"}
#: For pictures that are nearly alike.
LONGER = {"keep_norm": 1.0, "weighted_by": "attention"}


@pytest.fixture
def ran(monkeypatch):
    """The names of the kernels that ran."""
    names = []

    def noting(name, function):
        def run(*args):
            names.append(name)
            return function(*args)

        return run

    for name in ("match", "merge", "class_attention"):
        monkeypatch.setattr(launch, name, noting(name, getattr(launch, name)))
    return names


def plainly(function):
    """What `function` gives on PyTorch's own operations."""
    with choice.without_kernels():
        return function()


def build(name, lengths=None, **settings):
    case = CASES[name]
    model = apply_pitome(case.build().eval(), PiToMeConfig(ratio=0.8, **settings))
    return model, case.inputs(2) if lengths is None else text_inputs(2, lengths=lengths)


@pytest.mark.parametrize("name, lengths", [("ViTModel", None), ("BertModel", (24, 24)), ("BertModel", (24, 15))])
@pytest.mark.parametrize("settings", [{}, {"importance": 0.0}, OF_A_BUDGET, {"keep_norm": 0.5}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_give_what_they_give_without(name, lengths, settings, dtype, ran):
    model, inputs = build(name, lengths, **settings)
    model.to(dtype)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    with torch.no_grad():
        expected = plainly(lambda: model(**inputs).last_hidden_state)
        assert ran == []
        found = model(**inputs).last_hidden_state
    assert {"match", "merge"} <= set(ran) and ("class_attention" in ran) == (settings != {"importance": 0.0})
    # Weights and inputs of tiny models are random, so in bfloat16 some pairs are as good as others.
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    else:
        assert found.shape == expected.shape and torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.97


@pytest.mark.parametrize("algorithm", ["pitome", "tome"])
@pytest.mark.parametrize("ends", [(0, 1), (1, 0), (2, 3)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_ends_are_tokens_that_are_special(algorithm, ends, prefix):
    keys, spec = torch.randn(2, 4, 30, 8), MergeSpec(KeepRatio.from_float(0.7), algorithm, importance=0.5)
    attention = torch.rand(2, 1, 30)
    masks = TokenMasks(prefix, attention=attention, ends=ends)
    plan, expected = match_fused(keys, spec, masks), match_fused(keys, spec, masks.spelled_out(keys[:, 0]))
    assert isinstance(plan, FusedPlan) and plan.valid is plan.source_mask is None
    assert torch.equal(plan.rows, expected.rows) and torch.equal(plan.kept, expected.kept)
    real = expected.source_mask
    for name in ("source", "target"):
        assert torch.equal(getattr(plan, name).flatten(), getattr(expected, name)[real])


def test_threads_share_a_batch(monkeypatch):
    """With the results of one thread, and of each sample alone."""
    keys, spec = torch.randn(5, 300, 6, 64).transpose(1, 2), MergeSpec(KeepRatio.from_float(0.8), importance=0.5)
    attention = torch.rand(5, 1, 300)
    handed = []
    threads = launch._threads

    def counted(number):
        handed.append(number)
        return threads(number)

    monkeypatch.setattr(launch, "_threads", counted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        plan = match_fused(keys, spec, TokenMasks(1, attention=attention))
        assert handed and max(handed) > 1
        del handed[:]
        alone = [match_fused(keys[i : i + 1], spec, TokenMasks(1, attention=attention[i : i + 1])) for i in range(5)]
        torch.set_num_threads(1)
        of_one = match_fused(keys, spec, TokenMasks(1, attention=attention))
        assert handed == []
    finally:
        torch.set_num_threads(before)
    assert torch.equal(plan.rows, of_one.rows) and torch.equal(plan.target, of_one.target)
    assert torch.equal(plan.assignment, torch.cat([one.assignment for one in alone]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_gets_threads_of_its_own():
    launch._threads(2).submit(lambda: None).result()
    if (child := os.fork()) == 0:
        try:
            done = launch._threads(2).submit(lambda: 7).result(timeout=20) == 7
        except BaseException:
            done = False
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("name", ["ViTModel", "BertModel"])
def test_gradients_are_those_without(name, ran):
    model, inputs = build(name)

    def gradients():
        model.zero_grad()
        model(**inputs).last_hidden_state.square().sum().backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    expected = plainly(gradients)
    found = gradients()
    assert "merge" in ran and found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=3e-5, rtol=1e-3)


def test_compiled_models_run_them_inside_their_operators(ran):
    model, inputs = build("ViTModel")
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        expected = plainly(lambda: model(**inputs).last_hidden_state)
        del ran[:]
        torch.testing.assert_close(compiled(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert "match" in ran


def test_tensors_without_memory_need_none(ran):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        keys = mode.from_tensor(torch.randn(2, 4, 30, 8))
        plan = match_tokens(keys, MergeSpec(KeepRatio.from_float(0.7)))
        assert type(plan) is MergePlan and plan.rows.shape == (2, 30) and ran == []


@pytest.mark.parametrize(
    "name, settings, others",
    [("ViTModel", {}, []), ("ViTModel", LONGER, ["clamp"]), ("BertModel", OF_A_BUDGET, ["clamp"])],
)
def test_one_product_of_pytorch_is_left(name, settings, others):
    """Of what a merging layer adds, besides the memory of results and a copy of the class token's query; `clamp` is
    what keeps weights from being 0."""
    model, inputs = build(name, (24, 24) if name == "BertModel" else None, **settings)
    model(**inputs)  # compares the kernels
    merged = operations_of_layers(model, inputs, layers_of(model))
    with pitome_disabled(model):
        dense = operations_of_layers(model, inputs, layers_of(model))
    added = []
    for after, before in zip(merged[1:-2], dense[1:-2], strict=True):
        after.subtract(before)
        memory = ("empty", "clone")
        added.append(
            {name: count for name, count in after.items() if count > 0 and not any(m in name for m in memory)}
        )
    assert added == [{f"aten.{name}.default": 1 for name in ("bmm", *others)}] * len(added) and added


def test_wrong_promises_write_nowhere_else():
    """More special tokens than were promised: no token goes beyond its own sample."""
    special = torch.zeros(3, 30, dtype=torch.bool)
    special[1, 2:25] = True
    keys = torch.randn(3, 4, 30, 8)
    plan = match_fused(keys, MergeSpec(KeepRatio.from_float(0.6)), TokenMasks(1, special=special, max_special=2))
    assert isinstance(plan, FusedPlan)
    sample = plan.rows // plan.num_kept
    assert torch.equal(sample, torch.arange(3).unsqueeze(1).expand_as(sample))
    assert plan.merge(torch.randn(3, 30, 5)).shape == (3, plan.num_kept, 5)


def test_other_energies_stay_with_pytorch(ran):
    keys = torch.randn(2, 4, 30, 8)
    for settings in ({"energy": "paper"}, {"algorithm": "pitome_halves"}, {"algorithm": "tofu", "combine": "mlerp"}):
        assert not isinstance(match_tokens(keys, MergeSpec(KeepRatio.from_float(0.7), **settings)), FusedPlan)
    assert ran == []


@pytest.mark.parametrize("error, warns", [(ImportError("Numba needs NumPy 2.3 or less."), 0), (TypeError("no."), 1)])
def test_what_breaks_falls_back(error, warns, monkeypatch):
    """A Numba that does not import may be there for other reasons, so nothing is said of it."""
    monkeypatch.setattr(choice, "_compared", set())
    monkeypatch.setattr(choice, "_given_up", set())

    def refuse(*_):
        raise error

    monkeypatch.setattr(launches, "_module", refuse)
    keys = torch.randn(2, 4, 30, 8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            assert type(match_tokens(keys, MergeSpec(KeepRatio.from_float(0.7)))) is MergePlan
    assert len(told) == warns and all("on cpu: TypeError: no. Tokens merge" in str(one.message) for one in told)
    assert choice.in_use(CPU) is None


def test_where_nothing_can_be_written_nothing_is_kept():
    program = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
from optimum_pitome.kernels.cpu.settings import SETTINGS, is_real
import numpy as np
print(SETTINGS["cache"], is_real(np.zeros((0, 1), dtype=np.bool_), 0, 0))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True"]


def test_attention_that_asks_for_a_gradient_weighs_too(ran):
    """As that of `attn_implementation="eager"` does in training."""
    keys, hidden_states = torch.randn(2, 2, 20, 8, requires_grad=True), torch.randn(2, 20, 5, requires_grad=True)
    attention, spec = torch.rand(2, 3, 20, requires_grad=True), MergeSpec(KeepRatio.from_float(0.7), importance=0.5)
    plan = match_tokens(keys, spec, TokenMasks(1, attention=attention))
    merged, *_ = merge_tokens(plan, hidden_states, *[None] * 4, attention, True)
    merged.sum().backward()
    assert ran == ["match"] * ran.count("match") + ["merge"] * ran.count("merge") and hidden_states.grad is not None


def test_shapes_that_do_not_fit_are_left_to_pytorch(ran):
    """Which says so; loops would read other memory."""
    keys, hidden_states = torch.randn(3, 2, 30, 8), torch.randn(3, 30, 5)
    spec, sizes = MergeSpec(KeepRatio.from_float(0.7), importance=0.5), torch.ones(3, 30)
    plan = match_tokens(keys, spec, TokenMasks(1, attention=torch.rand(3, 2, 30)))
    del ran[:]
    others = [None] * 4
    for hidden, given in (
        (torch.randn(3, 31, 5), sizes),
        (torch.randn(2, 30, 5), sizes),
        (hidden_states, sizes[:, 1:]),
    ):
        assert merge_tokens(plan, hidden, given, *others, True) is None
    assert merge_tokens(plan, hidden_states, sizes[:1], *others, True) is None
    assert merge_tokens(plan, hidden_states, None, None, None, None, torch.rand(1, 30), True) is None
    assert merge_tokens(plan, hidden_states, None, plan.rows[:2], None, None, None, True) is None
    assert merge_tokens(plan, hidden_states, None, None, torch.ones(3, 29, dtype=torch.bool), None, None, True) is None
    for attention in (torch.rand(1, 2, 30), torch.rand(3, 2, 29)):
        assert match_fused(keys, spec, TokenMasks(1, attention=attention)) is None
    query = torch.randn(3, 2, 30, 8)
    for query, key, bias, valid in (
        (query[:1], keys, None, None),
        (query[..., 1:], keys, None, None),
        (torch.randn(3, 3, 30, 8), keys, None, None),
        (query, keys, torch.randn(1, 1, 1, 29), None),
        (query, keys, torch.randn(2, 1, 1, 30), None),
        (query, keys, None, torch.ones(3, 29, dtype=torch.bool)),
        (query[:, :, :5], keys, None, torch.ones(3, 30, dtype=torch.bool)),
        (query, torch.randn(3, 30, 3, 2, 8)[:, :, 1].transpose(1, 2), None, None),  # one projection of all three
    ):
        assert fused.class_attention_fused(query, key, bias, valid, 0.3) is None
    assert ran == []


def test_keys_in_memory_by_head_or_by_token():
    query, by_head = torch.randn(2, 4, 30, 8), torch.randn(2, 2, 30, 8)
    by_token = by_head.transpose(1, 2).contiguous().transpose(1, 2)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found = [
            fused.class_attention_fused(query.to(dtype), key.to(dtype), None, None, 0.3) for key in (by_head, by_token)
        ]
        assert torch.equal(*found)


def test_who_traces_or_differentiates_gets_operations(ran):
    spec, keys, hidden_states = MergeSpec(KeepRatio.from_float(0.7)), torch.randn(2, 2, 20, 8), torch.randn(2, 20, 5)
    plan = match_tokens(keys, spec)
    del ran[:]

    def merge(hidden):
        return plan.merge(hidden) if (found := merge_tokens(plan, hidden, *[None] * 5, True)) is None else found[0]

    graph = make_fx(lambda given: match_tokens(given, spec).rows)(keys)
    other = torch.randn(2, 2, 20, 8)
    assert torch.equal(graph(other), plainly(lambda: match_tokens(other, spec)).rows)
    gradient = torch.func.grad(lambda hidden: merge(hidden).square().sum())(hidden_states)
    assert gradient.shape == hidden_states.shape and gradient.abs().sum() > 0
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(merge(forward_ad.make_dual(hidden_states, torch.ones(2, 20, 5)))).tangent
    torch.testing.assert_close(tangent, torch.ones(2, plan.num_kept, 5))
    assert "merge" not in ran and choice.in_use(CPU) == "numba"


def test_comparisons_are_as_by_default_and_nobody_sees_them(monkeypatch):
    monkeypatch.setattr(choice, "_compared", set())
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            for name, variant in (
                ("match", ("nearest",)),
                ("match", ("tome",)),
                ("merge", ()),
                ("class_attention", ()),
            ):
                assert choice.is_equal(name, CPU, *variant)
        assert counter.get_total_flops() == 0 and torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


def test_compiled_code_on_disk_follows_what_it_calls():
    """Numba's cache looks at the file of a function alone. So every file with loops names the state of those that its
    loops call: where this fails, put the name that it says into the line after the imports."""
    folder = Path(launch.__file__).parent
    called = b"".join((folder / name).read_bytes() for name in ("bfloat16.py", "settings.py"))
    line = f"# Of bfloat16.py and settings.py, for Numba's cache: {hashlib.sha256(called).hexdigest()[:12]}"
    for name in ("factors.py", "merging.py", "plans.py"):
        assert line in (folder / name).read_text().splitlines(), line


def test_reports_say_which_kernels_ran():
    model, _ = build("ViTModel")
    assert machine(CPU)["kernels"] == "numba" and hardware_of(model).endswith(", merging kernels in Numba")
    about = {**machine(CPU), "name": "here"}
    assert ", merging kernels in Numba; " in Report([], about).about
    with choice.without_kernels():
        assert machine(CPU)["kernels"] is None and "kernels" not in hardware_of(model)
    assert "kernels" not in Report([], {**about, "kernels": None}).about


def test_a_numba_that_does_not_work_is_not_reported(monkeypatch):
    monkeypatch.setattr(choice, "_compared", set())
    monkeypatch.setattr(choice, "_given_up", set())
    monkeypatch.setattr(launches, "_module", lambda loops: importlib.import_module("no_such_module"))
    assert choice.in_use(CPU) is None
