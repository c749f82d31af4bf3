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

"""CLIP's tower under heads that say something of every patch: CLIPSeg, OWL-ViT and OWLv2."""

import torch
import transformers
from transformers import (
    CLIPSegConfig,
    CLIPSegVisionConfig,
    Owlv2Config,
    Owlv2VisionConfig,
    OwlViTConfig,
    OwlViTVisionConfig,
)

from zoo import Case
from zoo.clip_like import of_two, of_vision
from zoo.vision_language import image_and_text
from zoo.vit import pixel_values


def clipseg_config():
    return of_two(CLIPSegConfig, extract_layers=[0, 1, 2], reduce_dim=16, decoder_intermediate_size=32)()


def owl_config(config_class):
    """The queries of the detector are as wide as the text tower."""
    return of_two(config_class, projection_dim=32)


def image_and_query(batch_size: int) -> dict[str, torch.Tensor]:
    """One query of the text tower for each image."""
    inputs = image_and_text(batch_size)
    return {name: inputs[name] for name in ("input_ids", "pixel_values", "attention_mask")}


def small_outputs(model):
    """Of the order of 1, as those of trained models, so that rounding is, too."""
    heads = ("decoder.transposed_convolution", "decoder.film", "class_head", "box_head", "objectness_head")
    for name, parameter in model.named_parameters():
        if name.startswith(heads):
            parameter.data *= 0.1


_CONFIGS = {
    "CLIPSegModel": (of_two(CLIPSegConfig), image_and_text),
    "CLIPSegVisionModel": (of_vision(CLIPSegVisionConfig), pixel_values),
    "CLIPSegForImageSegmentation": (clipseg_config, image_and_text),
    "OwlViTModel": (of_two(OwlViTConfig), image_and_text),
    "OwlViTVisionModel": (of_vision(OwlViTVisionConfig), pixel_values),
    "OwlViTForObjectDetection": (owl_config(OwlViTConfig), image_and_query),
    "Owlv2Model": (of_two(Owlv2Config), image_and_text),
    "Owlv2VisionModel": (of_vision(Owlv2VisionConfig), pixel_values),
    "Owlv2ForObjectDetection": (owl_config(Owlv2Config), image_and_query),
}
CASES = [
    Case(
        getattr(transformers, name),
        config,
        inputs,
        prepare=small_outputs,
        across_samples=("logits_per_image", "logits_per_text") if name.endswith("Model") else (),
        reads_every_token=name.endswith(("Segmentation", "Detection")),
    )
    for name, (config, inputs) in _CONFIGS.items()
]
