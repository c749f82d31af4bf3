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

"""What must hold of the groups of every sample that `visualize` returns."""

import numpy as np


def check_groups(sample):
    """Groups only grow, and say the same as the sizes and the counts."""
    before = np.where(sample.layers[0].groups >= 0, np.arange(len(sample.layers[0].groups)), -1)
    for index, layer in enumerate(sample.layers):
        real = layer.groups >= 0
        assert layer.index == index and (real == (before >= 0)).all()
        assert layer.num_tokens == len(np.unique(layer.groups[real]))
        for group in np.unique(before[real]):  # what was together stays together
            assert len(np.unique(layer.groups[before == group])) == 1
        assert layer.members[real].sum() == sum(
            size**2 for size in np.unique(layer.groups[real], return_counts=True)[1]
        )
        assert np.allclose(layer.sizes[layer.groups[real]], layer.members[real])
        if layer.energy is not None:
            assert np.isfinite(layer.energy).any() and np.isnan(layer.energy[~real]).all()
            for group in np.unique(before[real]):
                alone = before == group  # a protected token is joined by nothing, and joins nothing
                together = layer.groups == layer.groups[alone][0]
                assert not layer.protected[alone].any() or alone.sum() == together.sum()
        before = layer.groups
