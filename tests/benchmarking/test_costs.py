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

"""Operations, memory and the share of the merge step."""

import pytest
import torch
from zoo.vit import CASES

from optimum_pitome import apply_pitome, pitome_disabled, pitome_summary
from optimum_pitome.benchmarking.costs import count_operations, loss, merge_seconds, peak_memory


@pytest.fixture
def vit():
    case = next(case for case in CASES if case.id == "ViTModel")
    return apply_pitome(case.build(), 0.8), case.inputs(1)


def test_operations_are_those_of_the_summary_and_of_what_is_no_encoder(vit):
    model, inputs = vit
    summary, patches = pitome_summary(model), model.config.patch_size**2 * 3 * model.config.hidden_size
    outside = 64 * patches + (0 if model.pooler is None else model.config.hidden_size**2)
    with pitome_disabled(model):
        dense = count_operations(lambda: model(**inputs))
    merged = count_operations(lambda: model(**inputs))
    assert dense == pytest.approx(summary.gflops_dense + outside / 1e9, rel=1e-6)
    assert dense - merged == pytest.approx(
        summary.gflops_dense - summary.gflops_merged - summary.gflops_merge_step, rel=0.02
    )


def test_memory_is_what_is_there_at_once():
    def run():
        first = torch.zeros(2**18)  # 1 MB each
        second = first + 1
        del first
        return second + 1

    assert peak_memory(run, torch.device("cpu")) == pytest.approx(2 * 2**20, rel=1e-3)
    assert peak_memory(run, torch.device("meta")) is None


def test_the_merge_step_is_a_part_of_the_forward(vit):
    model, inputs = vit
    seconds = merge_seconds(model, lambda: model(**inputs), lambda: None)
    assert 0 < seconds < 1
    apply_pitome(model, 1.0)
    assert merge_seconds(model, lambda: model(**inputs), lambda: None) == 0


def test_loss_is_that_of_the_worst_output():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert loss({"a": one, "b": one}, {"a": one, "b": other}) == pytest.approx(1.0)
    assert loss({"a": one}, {"a": one, "b": other}) == pytest.approx(0.0)
    assert loss({"a": one}, {"a": torch.ones(1, 3)}) is None
