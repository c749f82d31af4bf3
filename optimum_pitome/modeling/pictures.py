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

"""What a processor makes of a picture. Its size need not be the one in the model's configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def picture_shape(image_processor: Any) -> tuple[int, ...]:
    """The shape of what an image processor makes of one picture: `(channels, height, width)` of most."""
    blank = Image.new("RGB", (64, 64))
    return tuple(np.shape(image_processor(images=[blank], return_tensors="np")["pixel_values"])[1:])
