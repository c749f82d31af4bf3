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

import os
import subprocess
import sys

import pytest
import torch
from modeling.counting import operations_of_layers
from modeling.helpers import CASES
from modeling.test_launches import layers_of
from torch._subclasses.fake_tensor import FakeTensorMode
from zoo.text import text_inputs

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled
from optimum_pitome.kernels import choice
from optimum_pitome.kernels.cpu import launch
from optimum_pitome.merging import KeepRatio, MergePlan, MergeSpec, TokenMasks, launches, match_tokens, merge_tokens
from optimum_pitome.merging.fused import FusedPlan, match_fused


CPU = torch.device("cpu")
#: What the defaults of texts are with a budget.
OF_A_BUDGET = {"algorithm": "tome", "importance": 0.75, "weighted_by": "attention"}


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
    keys, spec = torch.randn(5, 6, 300, 64), MergeSpec(KeepRatio.from_float(0.8), importance=0.5)
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


@pytest.mark.parametrize("name, settings, others", [("ViTModel", {}, []), ("BertModel", OF_A_BUDGET, ["clamp"])])
def test_one_product_of_pytorch_is_left(name, settings, others):
    """Of what a merging layer adds, besides the memory of results; `clamp` is what keeps weights from being 0."""
    model, inputs = build(name, (24, 24) if name == "BertModel" else None, **settings)
    model(**inputs)  # compares the kernels
    merged = operations_of_layers(model, inputs, layers_of(model))
    with pitome_disabled(model):
        dense = operations_of_layers(model, inputs, layers_of(model))
    added = []
    for after, before in zip(merged[1:-2], dense[1:-2], strict=True):
        after.subtract(before)
        added.append({name: count for name, count in after.items() if count > 0 and "empty" not in name})
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


def test_what_breaks_says_so_once_and_falls_back(monkeypatch):
    """As a Numba that does not go with the NumPy that is installed: it raises where it is imported."""
    monkeypatch.setattr(choice, "_compared", set())
    monkeypatch.setattr(choice, "_given_up", set())

    def refuse(*_):
        raise ImportError("Numba needs NumPy 2.3 or less")

    monkeypatch.setattr(launches, "_module", refuse)
    keys = torch.randn(2, 4, 30, 8)
    with pytest.warns(RuntimeWarning, match="'match' is not used on cpu: ImportError: Numba needs NumPy") as told:
        assert type(match_tokens(keys, MergeSpec(KeepRatio.from_float(0.7)))) is MergePlan
    assert len(told) == 1


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
