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

import importlib.util

import pytest
import torch
from hypothesis import settings


#: Tests of a running vLLM, which `make test-vllm` has in an environment of its own.
collect_ignore = [] if importlib.util.find_spec("vllm") else ["integrations/vllm_engine"]

# The same examples every time: a merge is a discrete choice, and a near tie must not depend on the day of the week.
settings.register_profile("default", derandomize=True, deadline=None)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def pytorch_alone():
    """The merge step on PyTorch's own operations, where those are counted."""
    from optimum_pitome.kernels.choice import without_kernels

    with without_kernels():
        yield
