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

"""Models around an encoder that merges, which know nothing of it: the encoder returns every token, so they run."""

import torch
import transformers
from transformers import (
    AyaVisionConfig,
    BertConfig,
    CLIPVisionConfig,
    Cohere2Config,
    Cohere2VisionConfig,
    ColModernVBertConfig,
    ColPaliConfig,
    DeepseekVLConfig,
    DPRConfig,
    EncoderDecoderConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    ModernBertConfig,
    ModernVBertConfig,
    PaliGemmaConfig,
    SiglipVisionConfig,
    T5Gemma2Config,
    T5Gemma2DecoderConfig,
    T5Gemma2EncoderConfig,
    T5Gemma2TextConfig,
    VideoLlavaConfig,
)

from zoo import Case
from zoo.llava import GRID_MODELS, IMAGE_SIZE, IMAGE_TOKEN, NUM_PATCHES, PAD, grid_config, image, prompt, text_config
from zoo.text import SIZES as TEXT
from zoo.text import text_inputs
from zoo.vision_language import VISION
from zoo.vit import pixel_values


_LANGUAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "vocab_size": 100,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_COHERE = {name: value for name, value in _LANGUAGE.items() if name != "head_dim"}


def siglip(head: bool = False) -> SiglipVisionConfig:
    return SiglipVisionConfig(**VISION, vision_use_head=head)


def with_image(num_placeholders: int):
    """Inputs with one image, for which the model reads so many tokens."""

    def make(batch_size: int) -> dict[str, torch.Tensor]:
        ids = torch.tensor([prompt(num_placeholders=num_placeholders)] * batch_size)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixel_values(batch_size)}

    return make


def with_prefix(batch_size: int) -> dict[str, torch.Tensor]:
    """Inputs of PaliGemma: all tokens of the prefix see one another, and the last two are what it is to write."""
    inputs = with_image(NUM_PATCHES)(batch_size)
    types = torch.zeros_like(inputs["input_ids"])
    types[:, -2:] = 1
    return {**inputs, "token_type_ids": types}


def with_images(num_placeholders: int):
    """The same, in a list of one image for each sample."""

    def make(batch_size: int) -> dict[str, torch.Tensor]:
        inputs = with_image(num_placeholders)(batch_size)
        return {**inputs, "pixel_values": inputs["pixel_values"].unsqueeze(1)}

    return make


def with_tiles(batch_size: int) -> dict[str, torch.Tensor]:
    """The whole picture and two tiles of it beside each other, whose rows end in a newline token."""
    columns, rows = 2 * IMAGE_SIZE // 4, IMAGE_SIZE // 4
    inputs = with_image(NUM_PATCHES + rows * (columns + 1))(batch_size)
    sizes = torch.tensor([[IMAGE_SIZE, 2 * IMAGE_SIZE]] * batch_size)
    return {**inputs, "pixel_values": image(batch_size, 3), "image_sizes": sizes}


def with_video(batch_size: int) -> dict[str, torch.Tensor]:
    row = [*prompt(), *[98] * (2 * (1 + NUM_PATCHES)), 30]
    ids = torch.tensor([row] * batch_size)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**inputs, "pixel_values_images": image(batch_size), "pixel_values_videos": image(batch_size, 2, seed=2)}


def with_decoder_ids(batch_size: int) -> dict[str, torch.Tensor]:
    inputs = text_inputs(batch_size)
    return {**inputs, "decoder_input_ids": inputs["input_ids"][:, :5]}


def with_image_and_decoder_ids(batch_size: int) -> dict[str, torch.Tensor]:
    inputs = with_image(16)(batch_size)
    return {**inputs, "decoder_input_ids": inputs["input_ids"][:, -3:]}


def paligemma_config(text_config=GemmaConfig):
    return PaliGemmaConfig(
        vision_config=siglip().to_dict(),
        text_config=text_config(**_LANGUAGE).to_dict(),
        image_token_index=IMAGE_TOKEN,
        projection_dim=32,
    )


def paligemma2_config():
    """Half of the layers of Gemma 2 attend in a window, of the 16 nearest here."""
    settings = {"sliding_window": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": None}
    return paligemma_config(lambda **sizes: Gemma2Config(**sizes, **settings))


def colpali_config():
    return ColPaliConfig(vlm_config=paligemma_config(), embedding_dim=16)


def gemma3_config():
    return Gemma3Config(
        vision_config=siglip(),
        text_config=Gemma3TextConfig(**_LANGUAGE),
        mm_tokens_per_image=16,
        boi_token_index=97,
        eoi_token_index=98,
        image_token_index=IMAGE_TOKEN,
    )


def aya_vision_config():
    text = Cohere2Config(**_COHERE)
    return AyaVisionConfig(vision_config=siglip(), text_config=text, image_token_index=IMAGE_TOKEN)


def cohere2_vision_config():
    return Cohere2VisionConfig(
        vision_config=siglip(),
        text_config=Cohere2Config(**_COHERE),
        image_token_id=IMAGE_TOKEN,
        alignment_intermediate_size=64,
    )


def video_llava_config():
    return VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=text_config(),
        image_token_index=IMAGE_TOKEN,
        video_token_index=98,
    )


def deepseek_vl_config():
    return DeepseekVLConfig(vision_config=siglip(), text_config=text_config(), image_token_id=IMAGE_TOKEN)


def modernvbert_config():
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    special = {
        f"{name}_token_id": index for name, index in {"pad": PAD, "bos": 1, "cls": 1, "eos": 2, "sep": 2}.items()
    }
    text = ModernBertConfig(**{name: _LANGUAGE[name] for name in names}, **special)
    return ModernVBertConfig(vision_config=siglip(), text_config=text, image_token_id=IMAGE_TOKEN, num_labels=3)


def colmodernvbert_config():
    return ColModernVBertConfig(vlm_config=modernvbert_config(), embedding_dim=16)


def t5gemma2_config():
    encoder = T5Gemma2EncoderConfig(
        vision_config=siglip(),
        text_config=T5Gemma2TextConfig(**_LANGUAGE),
        mm_tokens_per_image=16,
        boi_token_index=97,
        eoi_token_index=98,
        image_token_index=IMAGE_TOKEN,
    )
    decoder = T5Gemma2DecoderConfig(**_LANGUAGE)
    return T5Gemma2Config(encoder=encoder, decoder=decoder, image_token_index=IMAGE_TOKEN)


def dpr_config(projection_dim=16):
    sizes = {name: value for name, value in TEXT.items() if name != "num_labels"}
    return DPRConfig(**sizes, projection_dim=projection_dim)


def dpr_reader_config():
    return dpr_config(projection_dim=0)


def encoder_decoder_config():
    decoder = BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**TEXT), decoder)
    config.decoder_start_token_id, config.pad_token_id = TEXT["bos_token_id"], TEXT["pad_token_id"]
    return config


def _grid(model_class):
    return lambda: grid_config(GRID_MODELS[model_class])


_CONFIGS = {
    "PaliGemmaForConditionalGeneration": (paligemma_config, with_prefix),
    "ColPaliForRetrieval": (colpali_config, with_image(NUM_PATCHES)),
    "Gemma3ForConditionalGeneration": (gemma3_config, with_image(16)),
    "Gemma3ForSequenceClassification": (gemma3_config, with_image(16)),
    "AyaVisionForConditionalGeneration": (aya_vision_config, with_image(16)),
    "Cohere2VisionForConditionalGeneration": (cohere2_vision_config, with_image(16)),
    "VideoLlavaForConditionalGeneration": (video_llava_config, with_video),
    "DeepseekVLForConditionalGeneration": (deepseek_vl_config, with_image(NUM_PATCHES)),
    "ModernVBertForMaskedLM": (modernvbert_config, with_images(4)),
    "ModernVBertForSequenceClassification": (modernvbert_config, with_images(4)),
    "ModernVBertForTokenClassification": (modernvbert_config, with_images(4)),
    "ColModernVBertForRetrieval": (colmodernvbert_config, with_images(4)),
    "T5Gemma2ForConditionalGeneration": (t5gemma2_config, with_image_and_decoder_ids),
    "DPRQuestionEncoder": (dpr_config, text_inputs),
    "DPRContextEncoder": (dpr_config, text_inputs),
    "DPRReader": (dpr_reader_config, text_inputs),
    "EncoderDecoderModel": (encoder_decoder_config, with_decoder_ids),
    **{model_class.__name__: (_grid(model_class), with_tiles) for model_class in GRID_MODELS},
}

#: Outputs that hold the samples one after the other: every tile or frame, or a list.
_TILES = ("image_hidden_states", *(f"image_outputs.{name}" for name in ("last_hidden_state", "hidden_states.3")))
_FLAT = {
    "VideoLlava": ("video_hidden_states", "video_outputs.last_hidden_state", "video_outputs.hidden_states.3")
    + ("video_outputs.pooler_output",),
    "LlavaNext": (*_TILES, "image_outputs.pooler_output"),
    "LlavaOnevision": (*_TILES, "image_outputs.pooler_output"),
    "ModernVBert": ("image_outputs.pooler_output",),
    "ColModernVBert": ("image_outputs.pooler_output",),
}


#: Those whose prompt gets shorter.
_SHORT = ("PaliGemmaForConditionalGeneration", "ColPaliForRetrieval", "DeepseekVLForConditionalGeneration")


def _case(name: str, config, inputs, **settings) -> Case:
    return Case(
        getattr(transformers, name),
        config,
        inputs,
        flat=next((outputs for start, outputs in _FLAT.items() if name.startswith(start)), ()),
        reads_every_token=name not in ("DPRQuestionEncoder", "DPRContextEncoder", *_SHORT),
        shortens=name in _SHORT,
        **settings,
    )


CASES = [_case(name, config, inputs) for name, (config, inputs) in _CONFIGS.items()]
_SECOND = {"variant": "2", "encoder_config": "vision_config"}  # Gemma 2 has no SDPA
CASES.append(_case("PaliGemmaForConditionalGeneration", paligemma2_config, with_prefix, **_SECOND))
