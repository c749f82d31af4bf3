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

"""Triton's interpreter: kernels on tensors of a CPU. Import this before anything imports Triton."""

from __future__ import annotations

import os


os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from triton.runtime import interpreter


def _round_to_bfloat16(convert):
    """The interpreter cuts off what bfloat16 has no room for; devices round to the nearest, as PyTorch does."""

    def converted(data, source_type, target_type, rounding_mode):
        if (source_type.name, target_type.name) != ("fp32", "bf16"):
            return convert(data, source_type, target_type, rounding_mode)
        values = torch.from_numpy(np.array(data, dtype=np.float32, order="C").reshape(-1)).bfloat16()
        return values.view(torch.uint16).numpy().reshape(data.shape)

    return converted


interpreter._convert_float = _round_to_bfloat16(interpreter._convert_float)
