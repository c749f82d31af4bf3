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

"""The vision towers (EVA-g) of BLIP-2 and InstructBLIP, which are the same under two names."""

from __future__ import annotations

from transformers.models.blip_2 import modeling_blip_2
from transformers.models.instructblip import modeling_instructblip

from ..modeling.cross_attention import register_reader
from ..modeling.registry import register_architecture
from .clip import CLIP_SETTINGS, CLIPStyleLayer


#: The models in which the Q-Former attends to the tower's tokens.
_COMPOSITES = (
    modeling_blip_2.Blip2Model,
    modeling_blip_2.Blip2VisionModelWithProjection,
    modeling_blip_2.Blip2ForConditionalGeneration,
    modeling_blip_2.Blip2ForImageTextRetrieval,
    modeling_instructblip.InstructBlipModel,
    modeling_instructblip.InstructBlipForConditionalGeneration,
)


class Blip2EncoderLayer(CLIPStyleLayer, modeling_blip_2.Blip2EncoderLayer):
    pass


class InstructBlipEncoderLayer(CLIPStyleLayer, modeling_instructblip.InstructBlipEncoderLayer):
    pass


def official_blip2(index: int, num_layers: int) -> dict:
    """BLIP-2 in the released code: keys, a narrow range of margins, proportional attention."""
    return {
        "energy": "elu",
        "metric": "keys",
        "margin": 0.75 - 0.4 * index / num_layers,
        "proportional_attention": True,
    }


_SETTINGS = {**CLIP_SETTINGS, "official": official_blip2}

register_architecture(modeling_blip_2.Blip2VisionModel, Blip2EncoderLayer, **_SETTINGS)
register_architecture(modeling_instructblip.InstructBlipVisionModel, InstructBlipEncoderLayer, **_SETTINGS)

for _model_class in _COMPOSITES:
    register_reader(_model_class, "qformer")
