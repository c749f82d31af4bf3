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

"""No value is read back from the device and no shape depends on data: the merge runs on tensors without data."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens
from optimum_pitome.methods import ALGORITHMS, ENERGIES


class Merge(torch.nn.Module):
    def __init__(self, ratio=0.75, masks="none", **settings):
        super().__init__()
        self.spec, self.masks = MergeSpec(KeepRatio.from_float(ratio), **settings), masks

    def forward(self, features, hidden_states, sizes, valid):
        special = torch.zeros_like(valid)
        special[:, -2] = True
        attention = features[..., 1].abs()
        masks = {
            "none": TokenMasks(1, attention=attention),
            "padding": TokenMasks(0, valid, attention=attention),
            "special": TokenMasks(1, None, special, 1, attention),
            "both": TokenMasks(1, valid, special, 2, attention),
            "protected": TokenMasks(1, valid, special, 2, attention, features[..., 0] > 0),
        }[self.masks]
        plan = match_tokens(features, self.spec, masks)
        merged = plan.merge(hidden_states, sizes)
        return merged, plan.merge_sizes(sizes), plan.unmerge(merged)


def inputs(batch_size=2, num_tokens=16):
    features, hidden_states = torch.randn(batch_size, num_tokens, 6), torch.randn(batch_size, num_tokens, 4)
    valid = torch.arange(num_tokens).expand(batch_size, -1) < torch.randint(5, num_tokens, (batch_size, 1))
    return features, hidden_states, torch.ones(batch_size, num_tokens), valid


@pytest.mark.parametrize("masks", ["none", "padding", "special", "both", "protected"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_value_is_read(algorithm, masks):
    module = Merge(algorithm=algorithm, masks=masks)
    real = inputs()
    expected = module(*real)
    with FakeTensorMode() as mode:
        outputs = module(*(mode.from_tensor(value) for value in real))
    assert [output.shape for output in outputs] == [output.shape for output in expected]


@pytest.mark.parametrize("energy", ENERGIES)
def test_no_energy_reads_a_value(energy):
    module, real = Merge(energy=energy, masks="both"), inputs()
    with FakeTensorMode() as mode:
        module(*(mode.from_tensor(value) for value in real))


@pytest.mark.parametrize(("algorithm", "masks"), [("pitome", "none"), *((name, "both") for name in ALGORITHMS)])
def test_export_with_any_batch_and_length(algorithm, masks):
    module = Merge(algorithm=algorithm, masks=masks)
    # A named dimension must be proven to keep its range, which the solver cannot do through a floor division.
    shapes = [{0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim.DYNAMIC}] * 4
    program = torch.export.export(module, inputs(), dynamic_shapes=shapes).module()
    for sizes in ((2, 16), (3, 29), (1, 64)):
        arguments = inputs(*sizes)
        for output, expected in zip(program(*arguments), module(*arguments)):
            torch.testing.assert_close(output, expected)
