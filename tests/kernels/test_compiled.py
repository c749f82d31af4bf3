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

"""The kernels compiled for GPUs, none of which is here: no thread spills, and blocks fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


#: Bytes of shared memory that a block may have.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@pytest.mark.parametrize("architecture", SHARED)
def test_kernels_fit(architecture):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_ahead.py")
    command = [sys.executable, script, str(architecture)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    table = json.loads(run.stdout)
    assert {row["kernel"].removesuffix("_kernel") for row in table} == {
        "factors",
        "energies",
        "rank",
        "match",
        "merge",
        "class_attention",
    }
    for row in table:
        assert row["spilled"] == 0, row
        # What is more than a third of it would leave two blocks on a processor.
        assert row["shared"] <= SHARED[architecture] // 3, row
        assert row["registers"] <= 255 and row["registers"] * row["threads"] <= 65536 // 2, row
