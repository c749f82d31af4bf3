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

"""CLIP's vision tower under heads that say something of every patch: CLIPSeg, OWL-ViT and OWLv2."""

from __future__ import annotations

from transformers.models.clipseg import modeling_clipseg
from transformers.models.owlv2 import modeling_owlv2
from transformers.models.owlvit import modeling_owlvit

from ..modeling.registry import register_architecture
from .clip import CLIP_SETTINGS, CLIPStyleLayer, refuse_causal


class CLIPSegEncoderLayer(CLIPStyleLayer, modeling_clipseg.CLIPSegEncoderLayer):
    pass


class OwlViTEncoderLayer(CLIPStyleLayer, modeling_owlvit.OwlViTEncoderLayer):
    pass


class Owlv2EncoderLayer(CLIPStyleLayer, modeling_owlv2.Owlv2EncoderLayer):
    pass


for tower, layer_class, text_tower, name, reader in (
    (
        modeling_clipseg.CLIPSegVisionModel,
        CLIPSegEncoderLayer,
        modeling_clipseg.CLIPSegTextModel,
        "CLIPSeg",
        "CLIPSegForImageSegmentation",
    ),
    (
        modeling_owlvit.OwlViTVisionTransformer,
        OwlViTEncoderLayer,
        modeling_owlvit.OwlViTTextTransformer,
        "OWL-ViT",
        "OwlViTForObjectDetection",
    ),
    (
        modeling_owlv2.Owlv2VisionTransformer,
        Owlv2EncoderLayer,
        modeling_owlv2.Owlv2TextTransformer,
        "OWLv2",
        "Owlv2ForObjectDetection",
    ),
):
    register_architecture(
        tower,
        layer_class,
        read_whole=(reader,),
        **CLIP_SETTINGS,
    )
    refuse_causal(text_tower, name)
