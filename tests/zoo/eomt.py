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

"""EoMT: segmentation by queries that join the patches in the last layers."""

import transformers
from transformers import EomtConfig, EomtDinov3Config

from zoo import Case
from zoo.vit import SIZES, pixel_values


_SIZES = {name: value for name, value in SIZES.items() if name not in ("num_labels", "intermediate_size")}
TINY = {**_SIZES, "num_hidden_layers": 5, "num_blocks": 2, "num_queries": 3, "num_upscale_blocks": 1, "num_labels": 3}


def eomt_config():
    return EomtConfig(**TINY, mlp_ratio=2, layerscale_value=0.5, num_register_tokens=2)


def eomt_dinov3_config():
    return EomtDinov3Config(**TINY, intermediate_size=64, layerscale_value=0.5, num_register_tokens=2)


_CONFIGS = {
    "EomtForUniversalSegmentation": eomt_config,
    "EomtDinov3ForUniversalSegmentation": eomt_dinov3_config,
}
CASES = [
    Case(getattr(transformers, name), config, pixel_values, reads_every_token=True)
    for name, config in _CONFIGS.items()
]
