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

"""What the tests of LLaVA share: models, batches, and a record of what ran."""

import inspect

import pytest
import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    VipLlavaForConditionalGeneration,
)
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer
from zoo.llava import (
    PAD,
    TOWERS,
    llava_config,
    vipllava_config,
)


def build(config=None, model_class=None, attn_implementation="sdpa"):
    """A seeded model whose tokens differ."""
    torch.manual_seed(0)
    config = config or llava_config()
    if model_class is None:
        model_class = (
            LlavaForConditionalGeneration if isinstance(config, LlavaConfig) else VipLlavaForConditionalGeneration
        )
    model = model_class._from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@torch.no_grad()
def logits(model, **kwargs):
    return model(**kwargs).logits


def left_padded(rows, side="left"):
    length = max(map(len, rows))
    pads = [[PAD] * (length - len(row)) for row in rows]
    masks = [[0] * len(pad) + [1] * len(row) for pad, row in zip(pads, rows)]
    ids = [pad + row for pad, row in zip(pads, rows)]
    if side == "right":
        ids, masks = [row + pad for pad, row in zip(pads, rows)], [mask[::-1] for mask in masks]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}


class Record:
    """Lengths that reach the language model, and how often each layer of the tower attends."""

    def __init__(self, model):
        self.lengths, self.layers = [], []
        base = model.model
        base.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: self.lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        for index, layer in enumerate(base.vision_tower.encoder.layers):
            layer.self_attn.register_forward_pre_hook(lambda module, args, index=index: self.layers.append(index))


# --- Numerics


needs_dinov2 = pytest.mark.skipif(
    "attention_mask" not in inspect.signature(Dinov2Layer.forward).parameters,
    reason="DINOv2 cannot be rewritten in this version of transformers: its layers pass no arguments on",
)
CONFIGS = {
    **{name: lambda name=name: llava_config(name) for name in TOWERS},
    "full": lambda: llava_config("clip", vision_feature_select_strategy="full"),
    "layer 1": lambda: llava_config("clip", vision_feature_layer=1),
    "list": lambda: llava_config("vit", vision_feature_layer=[-2, 1]),
    "vipllava": vipllava_config,
}


def alone(model, row, pixel_values):
    kwargs = {} if pixel_values is None else {"pixel_values": pixel_values}
    return logits(model, input_ids=torch.tensor([row]), **kwargs)[0]
