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

"""Where the kernels run: on NVIDIA GPUs with Triton and on CPUs with Numba, after they gave there what PyTorch gives,
and unless they are switched off. Everywhere else, and after any failure, the functions in PyTorch do."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch.utils._python_dispatch import _disable_current_modes


#: The environment variable that switches the kernels off from the start.
VARIABLE = "PITOME_KERNELS"


def is_on(environment: Mapping[str, str]) -> bool:
    """Whether `environment` leaves the kernels on."""
    return environment.get(VARIABLE, "1").strip().lower() not in ("0", "false", "off", "no")


_enabled = is_on(os.environ)

#: From the name of an operation: what compares it with PyTorch on a device, and raises where the two differ. Called
#: with the device and the rest of the arguments of [`is_chosen`].
COMPARISONS: dict[str, Callable[..., None]] = {}

#: What was compared, and found equal.
_compared: set[tuple] = set()

#: Devices on which a kernel failed or differed.
_given_up: set[torch.device] = set()


def use_kernels(enabled: bool) -> bool:
    """Switches the fused kernels on or off for the process. They run on NVIDIA GPUs with Triton and on CPUs with
    Numba, and are on from the start, unless the environment variable `PITOME_KERNELS` is 0.

    Args:
        enabled (`bool`): whether they may run. A device on which they failed stays with PyTorch.

    Returns:
        `bool`: what was set before.
    """
    global _enabled
    before, _enabled = _enabled, bool(enabled)
    return before


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """PyTorch's own operations inside the block, as what counts operations can see no others."""
    before = use_kernels(False)
    try:
        yield
    finally:
        use_kernels(before)


@functools.cache
def backend(device: torch.device) -> str | None:
    """What the kernels for `device` are written in, where it is installed: `"numba"` for CPUs, `"triton"` for NVIDIA
    GPUs from compute capability 8.0 on; otherwise `None`. Not for AMD's, which PyTorch calls "cuda", too: no kernel
    was compiled or compared there."""
    if device.type == "cpu":
        return "numba" if importlib.util.find_spec("numba") is not None else None
    if device.type != "cuda" or torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return None
    return "triton" if torch.cuda.get_device_capability(device) >= (8, 0) else None


def in_use(device: torch.device) -> str | None:
    """What the kernels are written in that run on `device` now; `None` where PyTorch's own operations do. Whether a
    Numba that is installed works is tried out."""
    if not _enabled or not may_run(device) or has_loops(device) and not is_equal("merge", device):
        return None
    return backend(device)


@torch.compiler.assume_constant_result
def has_loops(device: torch.device) -> bool:
    """Whether the kernels for `device` are loops in Numba."""
    return backend(device) == "numba"


@torch.compiler.assume_constant_result
def may_run(device: torch.device) -> bool:
    """Whether [`is_chosen`] is worth asking."""
    return backend(device) is not None and device not in _given_up


def is_chosen(name: str, device: torch.device, *variant: str | int | bool | torch.dtype) -> bool:
    """Whether the kernels of an operation run on `device`. The first time that it is asked of a variant, its kernels
    run there on a small input, beside PyTorch.

    Args:
        name (`str`): key of `COMPARISONS`.
        variant: what other kernels are compiled for.
    """
    if not _enabled or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False  # what is exported runs where this package is not
    return is_equal(name, device, *variant)


@torch.compiler.assume_constant_result  # a compiler asks once, while it traces
def is_equal(name: str, device: torch.device, *variant) -> bool:
    """[`is_chosen`], but for the switch."""
    if not may_run(device):
        return False
    if (name, device, variant) in _compared:
        return True
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return False  # nothing can be compared here
    try:
        with _undisturbed(device):
            COMPARISONS[name](device, *variant)
    except torch.OutOfMemoryError:
        return False  # which says nothing about the kernels
    except Exception as error:
        give_up(device, name, error)
        return False
    _compared.add((name, device, variant))
    return True


@contextlib.contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Operations inside the block are as by default, and nobody who watches those of the caller sees them."""
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        modes = torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False)
        for mode in (_disable_current_modes(), torch.device("cpu"), *modes):
            stack.enter_context(mode)
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


def give_up(device: torch.device, name: str, error: Exception) -> None:
    """From now on, PyTorch on `device`; one warning says why, but for a Numba that does not import: it may be here for
    other reasons."""
    if device in _given_up:
        return
    _given_up.add(device)
    if isinstance(error, ImportError) and has_loops(device):
        return
    reason = str(error).strip().split("\n")[-1][:200].rstrip(".") or "no message"
    warnings.warn(
        f"The fused kernel of {name!r} is not used on {device}: {type(error).__name__}: {reason}. Tokens merge with "
        f"PyTorch's own operations there, with the same results, but slower. To switch "
        f"the kernels off, and this warning with them, set {VARIABLE}=0 in the environment, or call "
        "optimum_pitome.use_kernels(False).",
        RuntimeWarning,
        stacklevel=2,
    )
