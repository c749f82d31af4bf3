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

"""Rows of tokens in bfloat16, which Numba does not know: their bits come as `uint16`, and are read as float32."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .settings import SETTINGS


def widened(row, room):
    """The numbers of a `row` `(dim,)` in float32: itself, or in the `room` that bfloat16 is read into."""


def narrowed(row, out):
    """Writes a `row` of float32 to `out` where that is bfloat16, rounded to the nearest; otherwise it is there."""


def sums_of(out, room):
    """Where the sums of a sample are made that go to `out`: there, or in the `room` where it is bfloat16."""


@overload(widened, jit_options=SETTINGS)
def _widened(row, room):
    if row.dtype != types.uint16:
        return lambda row, room: row

    def read(row, room):
        bits = room.view(np.uint32)
        for column in range(row.shape[0]):
            bits[column] = np.uint32(row[column]) << np.uint32(16)
        return room

    return read


@overload(sums_of, jit_options=SETTINGS)
def _sums_of(out, room):
    return (lambda out, room: room) if out.dtype == types.uint16 else (lambda out, room: out)


@overload(narrowed, jit_options=SETTINGS)
def _narrowed(row, out):
    if out.dtype != types.uint16:
        return lambda row, out: None

    def write(row, out):
        bits = row.view(np.uint32)
        for column in range(row.shape[0]):
            given = bits[column]
            # Half to even; what is no number stays none.
            rounded = (given + np.uint32(0x7FFF) + ((given >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            is_none = (given & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            out[column] = np.uint16(0x7FC0) if is_none else np.uint16(rounded)

    return write
