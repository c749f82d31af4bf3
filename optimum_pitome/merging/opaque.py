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

"""Merging as operators that `torch.compile` does not look into, where looking costs more than it saves: on a CPU.

A merged length depends on the length before it, so the lengths of a dozen layers are nested expressions once the first
is symbolic. Inductor's generator of C++ takes minutes over their algebra and over kernels that sort and gather, which
eager PyTorch runs as fast. Behind an operator each length is a number of its own, which no expression ties to another,
and a dozen layers share one set of kernels.

`torch.export` and other devices trace the functions themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch.fx.experimental import symbolic_shapes


def is_opaque(tokens: torch.Tensor) -> bool:
    """Whether the operators take over. A constant for a compiler, and `False` without one."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting() and tokens.device.type == "cpu"


def operator(
    name: str,
    fake: Callable,
    save: Callable | None = None,
    gradient: Callable | None = None,
    schema: str | None = None,
) -> Callable:
    """Makes an operator of a function whose first argument is a tensor; callers go on calling the function.

    Args:
        name (`str`): after "optimum_pitome::".
        fake (`Callable`): from the arguments, empty tensors of the shapes that the function returns.
        save (`Callable`, *optional*): from the arguments, what `gradient` needs.
        gradient (`Callable`, *optional*):
            From the gradient of the result, and what was saved, that of the first argument. `None`: it has none.
        schema (`str`, *optional*): of the arguments and the result; read from the annotations by default.
    """

    def decorate(function: Callable) -> Callable:
        opaque = torch.library.custom_op(f"optimum_pitome::{name}", function, mutates_args=(), schema=schema)
        opaque.register_fake(fake)
        if gradient is not None:

            def setup(ctx, inputs, output):
                saved = save(*inputs)
                ctx.save_for_backward(*[value if isinstance(value, torch.Tensor) else None for value in saved])
                ctx.numbers = [None if isinstance(value, torch.Tensor) else value for value in saved]
                ctx.num_others = len(inputs) - 1

            def backward(ctx, result):
                saved = [
                    number if tensor is None else tensor for tensor, number in zip(ctx.saved_tensors, ctx.numbers)
                ]
                return gradient(result, *saved), *[None] * ctx.num_others

            opaque.register_autograd(backward, setup_context=setup)

        @functools.wraps(function)
        def call(*args):
            if torch.compiler.is_dynamo_compiling() and is_opaque(args[0]):
                return opaque(*args)
            return function(*args)

        return call

    return decorate


def new_length(fake: torch.Tensor, at_least: int) -> torch.SymInt:
    """A length that only the run of an operator tells.

    As torch.library's `new_dynamic_size`, which Dynamo refuses unless `capture_dynamic_output_shape_ops` is set: a
    switch for lengths that depend on the data, which those of merging do not.
    """
    length = fake.fake_mode.shape_env.create_unbacked_symint()
    symbolic_shapes._constrain_range_for_size(length, min=at_least)
    return length


def empty(like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
    """An empty tensor for a `fake`, as `like.new_empty(shape)`, whose strides are plain products of the lengths.

    PyTorch's own take lengths that only a run tells for possibly zero, and so are products of `max(1, length)`, which
    Inductor would simplify again and again.
    """
    strides, stride = [], 1
    for length in reversed(shape):
        strides.append(stride)
        stride = stride * length
    return like.new_empty_strided(tuple(shape), strides[::-1], dtype=dtype or like.dtype)
