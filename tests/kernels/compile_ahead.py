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

"""Compiles every kernel for one architecture of GPUs, without one, as the package launches it: a JSON list on stdout
of what the compiler says.

    python tests/kernels/compile_ahead.py 90

Triton's own runtime decides what each launch is compiled for. A driver that knows nothing but its target stands in for
that of a device, and kernels are compiled instead of launched.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

from optimum_pitome.kernels.gpu import attention, launch, matching, merging, similarity


class TargetOnly:
    """The part of a driver that compiling asks."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel, found: list):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def compile_for(*args, **kwargs):
            self.found.append((self.kernel.__name__, self.kernel.warmup(*args, grid=grid, **kwargs)))

        return compile_for


def resources(kernel, architecture: int) -> dict:
    """Registers of a thread and bytes that it spills, from the assembler; shared memory of a block, from Triton."""
    assembly = kernel.asm["ptx"]
    target = re.search(r"\.target (\w+)", assembly).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(assembly)
        file.flush()
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "registers": int(re.search(r"Used (\d+) registers", said).group(1)),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        "shared": kernel.metadata.shared,
        "threads": 32 * kernel.metadata.num_warps,
    }


def launch_all(dtype: torch.dtype, heads: int, num_tokens: int, dim: int, width: int, masked: bool, energy: str):
    """Once each kernel, for `heads` of `dim` and hidden states of `width`."""
    pairs = num_tokens // 10
    keys, paid = torch.zeros(2, heads, num_tokens, dim, dtype=dtype), torch.zeros(2, heads, num_tokens)
    mask = torch.ones(2, num_tokens, dtype=torch.bool) if masked else None
    plan = launch.match(
        keys,
        paid if masked else None,
        mask,
        mask,
        None if energy == "tome" else mask,
        1,
        pairs,
        num_tokens - pairs,
        (1, 10, 0, 1),
        energy,
        0.9,
        1.0,
        0.25,
    )
    hidden_states = torch.zeros(2, num_tokens, width, dtype=dtype)
    rows, kept, source, target, *masks = plan
    masks = masks if masked else [None, None]
    sizes = paid[:, 0] if masked else None
    moved = rows if masked else None
    merging.merge(
        hidden_states,
        sizes,
        rows,
        mask,
        kept,
        source,
        target,
        *masks,
        moved,
        mask,
        mask,
        paid if masked else None,
        True,
    )
    bias = hidden_states[:, None, None, :, 0].contiguous() if masked else None
    attention.class_attention(keys, keys, bias, mask, 0.125)


#: ViT-B, plain and with all masks; hidden states of ViT-B, of a large BERT and of so400m; the longest and widest.
CASES = (
    (torch.bfloat16, 12, 197, 64, 768, False, "nearest"),
    (torch.float16, 12, 197, 64, 768, True, "nearest"),
    (torch.bfloat16, 1, 577, 768, 768, True, "nearest"),
    (torch.float16, 1, 512, 1024, 1024, True, "tome"),
    (torch.float32, 16, 729, 80, 1280, False, "elu"),
    (torch.float32, 1, 729, 1152, 1152, True, "paper"),
    (torch.bfloat16, 16, 4096, 128, 2048, True, "gaussian"),
)


def main(architecture: int) -> None:
    triton.runtime.driver.set_active(TargetOnly(architecture))
    found: list = []
    for module in (similarity, matching, merging, attention, launch):
        for name, value in list(vars(module).items()):
            if name.endswith("_kernel"):
                setattr(module, name, Compiled(value, found))
    table = []
    for case in CASES:
        found.clear()
        launch_all(*case)
        for name, kernel in found:
            table.append({"kernel": name, "case": [str(value) for value in case], **resources(kernel, architecture)})
    sys.stdout.write(json.dumps(table))


if __name__ == "__main__":
    main(int(sys.argv[1]))
