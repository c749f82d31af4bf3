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

"""How many operations run: each is a kernel to launch on an accelerator."""

from __future__ import annotations

from collections import Counter

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optimum_pitome import pitome_disabled


class OperationCounter(TorchDispatchMode):
    """Counts operations that compute something: those that only look at memory of their arguments are views.

    Attributes:
        operations (`Counter`): by name.
    """

    def __init__(self):
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # What an operation shares with its arguments is a view, unless it wrote there; some ask about dtypes only.
        given, returned = _storages((args, kwargs)), _storages(result)
        if returned and (function._schema.is_mutable or not returned <= given):
            self.operations[str(function)] += 1
        return result

    def total(self) -> int:
        return self.operations.total()


def _storages(values) -> set[int]:
    tensors = [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def operations_of_layers(model, inputs, layers) -> list[Counter[str]]:
    """What runs in each of `layers` of `model` and, as the last entry, in all the rest of it."""
    found = [Counter() for _ in layers]
    with torch.no_grad(), OperationCounter() as counter:
        handles = []
        for layer, operations in zip(layers, found):
            # The difference of what has run before and after the layer.
            handles.append(layer.register_forward_pre_hook(lambda *_, o=operations: o.subtract(counter.operations)))
            handles.append(layer.register_forward_hook(lambda *_, o=operations: o.update(counter.operations)))
        try:
            model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
    rest = counter.operations.copy()
    for operations in found:
        rest.subtract(operations)
    return [+operations for operations in (*found, rest)]


def added_operations(model, inputs, layers) -> list[int]:
    """How many operations merging adds to each of `layers` of a rewritten `model` and, as the last entry, to the rest
    of it."""
    merged = operations_of_layers(model, inputs, layers)
    with pitome_disabled(model):
        dense = operations_of_layers(model, inputs, layers)
    return [after.total() - before.total() for after, before in zip(merged, dense)]


class MemoryMeter(TorchDispatchMode):
    """How much memory the tensors hold that operations make, at most at one time.

    Attributes:
        peak (`int`): bytes.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = _storages((args, kwargs))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:
                    self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._held.values()))
        return result
