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

"""On tensors of a CPU, the kernels of Numba run where it is installed; those of Triton in its interpreter, in their
place, where `make test-kernels` asks for it. Without either, only the tests of what chooses them run."""

import importlib.util
import os

import numpy as np
import pytest
import torch


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    from triton.runtime import interpreter
    from triton.runtime.interpreter import GridExecutor

    def _round_to_bfloat16(convert):
        """The interpreter cuts off what bfloat16 has no room for; devices round to the nearest, as PyTorch does."""

        def converted(data, source_type, target_type, rounding_mode):
            if (source_type.name, target_type.name) != ("fp32", "bf16"):
                return convert(data, source_type, target_type, rounding_mode)
            values = torch.from_numpy(np.array(data, dtype=np.float32, order="C").reshape(-1)).bfloat16()
            return values.view(torch.uint16).numpy().reshape(data.shape)

        return converted

    interpreter._convert_float = _round_to_bfloat16(interpreter._convert_float)
    collect_ignore = ["test_cpu.py"]
else:
    collect_ignore = ["test_fused_models.py", "test_compiled.py", "test_device_check.py"]
    if importlib.util.find_spec("numba") is None:
        collect_ignore += ["test_functions.py", "test_cpu.py"]


@pytest.fixture
def kernels_on(monkeypatch):
    """The kernels run on a CPU, without a comparison before."""
    from optimum_pitome.kernels import choice

    if INTERPRETED:
        monkeypatch.setattr(choice, "backend", lambda device: "triton")
    monkeypatch.setattr(choice, "may_run", lambda device: True)
    monkeypatch.setattr(choice, "is_equal", lambda *_: True)


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that were launched. What the interpreter does for them counts for nothing else."""
    names, call = [], GridExecutor.__call__

    def launch(self, *args, **kwargs):
        names.append(self.fn.__name__)
        with torch.utils._python_dispatch._disable_current_modes():
            return call(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", launch)
    return names
