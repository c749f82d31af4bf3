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

"""How Numba compiles the loops of this package.

`B` samples of `N` tokens. Each loop works on the samples `first` to `last - 1` and needs no lock, so that threads can
share a batch; what a sample gets does not depend on the others. All arrays are contiguous. A mask that is not given
has no rows, and one with a single row stands for the whole batch.
"""

from __future__ import annotations

import numpy as np
from numba import njit


def _can_cache() -> bool:
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:  # neither this folder nor NUMBA_CACHE_DIR nor the user's can be written to
        return False
    return True


#: Compiled code is kept beside the source (or in NUMBA_CACHE_DIR), and runs without Python's lock.
SETTINGS = {"cache": _can_cache(), "nogil": True, "error_model": "numpy"}

#: Where sums and maxima may be taken in any order, as vector instructions need it. The order is always the same.
REORDERED = {**SETTINGS, "fastmath": {"reassoc", "contract", "nsz", "nnan"}}

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@njit(**SETTINGS)
def is_marked(mask, sample, token):
    """What a mask that is given says of a token."""
    return mask[sample % mask.shape[0], token]


@njit(**SETTINGS)
def is_real(valid, sample, token):
    """Whether a token counts: all do where no mask is given."""
    return valid.shape[0] == 0 or is_marked(valid, sample, token)
