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

"""LLaVA and VipLLaVA with every kind of vision tower, small enough to run in a moment."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
    ViTConfig,
)

from zoo import Case


IMAGE_TOKEN, PAD, BOS, EOS = 99, 0, 1, 2
IMAGE_SIZE, PATCH_SIZE = 32, 4
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}

TOWERS: dict[str, Callable] = {
    "clip": lambda: CLIPVisionConfig(**_SIZES),
    "siglip": lambda: SiglipVisionConfig(**_SIZES),
    "dinov2": lambda: Dinov2Config(**_SIZES, layerscale_value=0.5),
    "vit": lambda: ViTConfig(**_SIZES),
}


def text_config(**kwargs) -> LlamaConfig:
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 100,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return LlamaConfig(**{**settings, **kwargs})


def llava_config(tower: str = "clip", **kwargs) -> LlavaConfig:
    kwargs = {"vision_feature_select_strategy": "full" if tower == "siglip" else "default", **kwargs}
    return LlavaConfig(
        vision_config=TOWERS[tower](), text_config=text_config(), image_token_index=IMAGE_TOKEN, **kwargs
    )


def vipllava_config(**kwargs) -> VipLlavaConfig:
    config = VipLlavaConfig(
        vision_config=TOWERS["clip"](), text_config=text_config(), image_token_index=IMAGE_TOKEN, **kwargs
    )
    # The field had the plural before transformers 5.23.
    name = "vision_feature_layer" if hasattr(config, "vision_feature_layer") else "vision_feature_layers"
    setattr(config, name, [-2, 1, -3])
    return config


def grid_config(config_class) -> LlavaNextConfig | LlavaOnevisionConfig:
    """Two tiles beside each other, with a SigLIP tower where the model has no CLS to drop."""
    tower = "siglip" if config_class is LlavaOnevisionConfig else "clip"
    return config_class(
        vision_config=TOWERS[tower](),
        text_config=text_config(),
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=[[IMAGE_SIZE, 2 * IMAGE_SIZE]],
        vision_feature_layer=-2,
    )


GRID_MODELS = {
    LlavaNextForConditionalGeneration: LlavaNextConfig,
    LlavaNextVideoForConditionalGeneration: LlavaNextVideoConfig,
    LlavaOnevisionForConditionalGeneration: LlavaOnevisionConfig,
}


def image(*batch: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))


def prompt(num_images: int = 1, num_placeholders: int = NUM_PATCHES, text: int = 5) -> list[int]:
    """Text, then images with a word after each."""
    words = list(range(10, 10 + text))
    return [BOS, *words, *([IMAGE_TOKEN] * num_placeholders + [20]) * num_images, 30, 31]


def inputs(batch_size: int) -> dict[str, torch.Tensor]:
    ids = torch.tensor([prompt()] * batch_size)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": image(batch_size)}


def make_tokenizer(*first: str) -> PreTrainedTokenizerFast:
    """Knows the words `first`, `w` and a number up to `w98`, and `<image>`. Pads on the left, as `generate` needs."""
    words = [*first, *(f"w{index}" for index in range(len(first), IMAGE_TOKEN)), "<image>"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def make_processor() -> LlavaProcessor:
    """Words `w3` to `w98`, 32-pixel pictures, prompts padded on the left as `generate` needs them."""
    tokenizer = make_tokenizer("<pad>", "<s>", "</s>")
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}",
    )


def picture(seed: int = 0) -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels)


CASES = [
    Case(
        LlavaForConditionalGeneration,
        llava_config,
        inputs,
        shortens=True,
        flat=("image_hidden_states", "image_outputs.pooler_output"),
    ),
    Case(VipLlavaForConditionalGeneration, vipllava_config, inputs, shortens=True),
]
