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

"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ..kernels.choice import in_use
from ..modeling.requirements import versions_of


_PACKAGES = ("optimum_pitome", "torch", "transformers", "onnxruntime", "openvino", "nncf", "torchao")


def device_of(name: str) -> torch.device:
    """
    Args:
        name (`str`): such as `"cpu"` or `"cuda"`; `"auto"` is the accelerator where there is one, else the CPU.

    Raises:
        ValueError: if there is no such device.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if found is None else torch.device(found.type)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {error}") from None


def machine(device: torch.device, clock: str = "wall") -> dict[str, Any]:
    """The device by name, its threads, the clock, the kernels that merge, and versions."""
    found: dict[str, Any] = {"device": device.type, "name": _name(device), "clock": clock, "kernels": in_use(device)}
    if device.type == "cpu":
        found |= {
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    return {**found, "python": platform.python_version(), "versions": versions_of(_PACKAGES)}


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    if device.type == "cpu" and information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
