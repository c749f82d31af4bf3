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

"""Vision-language models: CLIP, SigLIP, BLIP, BLIP-2, InstructBLIP, and models made of two."""

import torch
import transformers
from transformers import (
    BertConfig,
    Blip2Config,
    Blip2VisionConfig,
    BlipConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPVisionConfig,
    InstructBlipConfig,
    InstructBlipVisionConfig,
    OPTConfig,
    SiglipConfig,
    SiglipVisionConfig,
    T5Config,
    VisionEncoderDecoderConfig,
    VisionTextDualEncoderConfig,
    ViTConfig,
)

from zoo import Case
from zoo.vit import SIZES, pixel_values


VISION = {name: value for name, value in SIZES.items() if name != "num_labels"}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
    "max_position_embeddings": 16,
    "bos_token_id": 57,
    "eos_token_id": 58,
    "pad_token_id": 0,
}


def input_ids(batch_size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 50, (batch_size, 8), generator=generator)
    ids[:, -1] = TEXT["eos_token_id"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def image_and_text(batch_size: int) -> dict[str, torch.Tensor]:
    return {**pixel_values(batch_size), **input_ids(batch_size)}


def clip_config():
    return CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16, num_labels=3)


def clip_vision_config():
    return CLIPVisionConfig(**VISION, projection_dim=16)


def siglip_config():
    # The zero-shot pipeline pads to 64.
    text = {**TEXT, "projection_size": 32, "max_position_embeddings": 64}
    return SiglipConfig(text_config=text, vision_config=VISION, num_labels=3)


def siglip_vision_config():
    return SiglipVisionConfig(**VISION)


def blip_config():
    text = {**TEXT, "encoder_hidden_size": 32, "sep_token_id": TEXT["eos_token_id"], "projection_dim": 16}
    return BlipConfig(text_config=text, vision_config=VISION, projection_dim=16, image_text_hidden_size=16)


def blip_vision_config():
    return BlipVisionConfig(**VISION)


QFORMER = {**TEXT, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
QUERIES = 4


def opt_config():
    return OPTConfig(
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=60,
        max_position_embeddings=32,
        word_embed_proj_dim=32,
        bos_token_id=57,
        eos_token_id=58,
        pad_token_id=0,
    )


def t5_config():
    return T5Config(
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        vocab_size=60,
        eos_token_id=58,
        pad_token_id=0,
        decoder_start_token_id=0,
    )


def blip2_config(text_config=opt_config, **qformer):
    return Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, **qformer},
        text_config=text_config(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
        image_token_index=59,
    )


def blip2_retrieval_config():
    return blip2_config(use_qformer_text_input=True)


def blip2_vision_config():
    return Blip2VisionConfig(**VISION)


def instructblip_config():
    return InstructBlipConfig(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=opt_config(),
        num_query_tokens=QUERIES,
        image_token_index=59,
    )


def instructblip_vision_config():
    return InstructBlipVisionConfig(**VISION)


def dual_encoder_config():
    bert = BertConfig(**{**TEXT, "vocab_size": 60})
    return VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**VISION), bert, projection_dim=16)


def encoder_decoder_config():
    decoder = BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id = TEXT["bos_token_id"], TEXT["pad_token_id"]
    return config


def with_answer(batch_size: int) -> dict[str, torch.Tensor]:
    inputs = image_and_text(batch_size)
    return {**inputs, "decoder_input_ids": inputs["input_ids"][:, :3]}


def with_placeholders(batch_size: int) -> dict[str, torch.Tensor]:
    inputs = input_ids(batch_size)
    ids = torch.cat([torch.full((batch_size, QUERIES), 59), inputs["input_ids"]], dim=1)
    return {**pixel_values(batch_size), "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def with_instruction(batch_size: int) -> dict[str, torch.Tensor]:
    question = input_ids(batch_size)
    names = {"qformer_input_ids": "input_ids", "qformer_attention_mask": "attention_mask"}
    return {**with_placeholders(batch_size), **{name: question[key] for name, key in names.items()}}


def with_decoder_ids(batch_size: int) -> dict[str, torch.Tensor]:
    return {**pixel_values(batch_size), "decoder_input_ids": input_ids(batch_size)["input_ids"]}


_CONFIGS = {
    "CLIPModel": (clip_config, image_and_text),
    "CLIPVisionModel": (clip_vision_config, pixel_values),
    "CLIPVisionModelWithProjection": (clip_vision_config, pixel_values),
    "CLIPForImageClassification": (clip_config, pixel_values),
    "SiglipModel": (siglip_config, image_and_text),
    "SiglipVisionModel": (siglip_vision_config, pixel_values),
    "SiglipForImageClassification": (siglip_config, pixel_values),
    "BlipModel": (blip_config, image_and_text),
    "BlipVisionModel": (blip_vision_config, pixel_values),
    "BlipForImageTextRetrieval": (blip_config, image_and_text),
    "BlipForQuestionAnswering": (blip_config, with_answer),
    "BlipForConditionalGeneration": (blip_config, image_and_text),
    "Blip2Model": (blip2_config, with_placeholders),
    "Blip2VisionModel": (blip2_vision_config, pixel_values),
    "Blip2VisionModelWithProjection": (blip2_config, pixel_values),
    "Blip2ForConditionalGeneration": (blip2_config, with_placeholders),
    "Blip2ForImageTextRetrieval": (blip2_retrieval_config, with_placeholders),
    "InstructBlipModel": (instructblip_config, with_instruction),
    "InstructBlipVisionModel": (instructblip_vision_config, pixel_values),
    "InstructBlipForConditionalGeneration": (instructblip_config, with_instruction),
    "VisionTextDualEncoderModel": (dual_encoder_config, image_and_text),
    "VisionEncoderDecoderModel": (encoder_decoder_config, with_decoder_ids),
}

_CONTRASTIVE = (
    "BlipModel",
    "Blip2ForImageTextRetrieval",
    "CLIPModel",
    "SiglipModel",
    "VisionTextDualEncoderModel",
)


def random_queries(model):
    """BLIP-2's query tokens start as zeros, with which every token of an image looks alike."""
    if hasattr(model, "query_tokens"):
        torch.nn.init.normal_(model.query_tokens)


CASES = [
    Case(
        getattr(transformers, name),
        config,
        inputs,
        prepare=random_queries,
        across_samples=("logits_per_image", "logits_per_text") if name in _CONTRASTIVE else (),
        eager_only=name.startswith("Blip") and not name.startswith("Blip2"),
    )
    for name, (config, inputs) in _CONFIGS.items()
]
