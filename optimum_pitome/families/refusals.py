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

"""Why models that people know cannot merge, by model type, and which of those that can are near: data for messages.

A model type that is in no row here, and that is no causal decoder, is simply not supported yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

from ..configuration.config import configurations
from .table import SUPPORTED_MODEL_TYPES


_IMAGES = ("vit", "dinov2", "siglip")
_TEXTS = ("bert", "roberta", "distilbert", "mpnet")
_CHATS = ("llava", "llava_onevision")
_PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True)
class Reason:
    """
    Attributes:
        text (`str`): the end of a sentence that begins with the model type.
        nearest (`tuple[str, ...]`): model types that can merge and serve the same purpose.
        model_types (`str`): whom it concerns, with spaces between them.
    """

    text: str
    nearest: tuple[str, ...]
    model_types: str = ""


_NOT_YET = "is not supported yet"
_WINDOWS = (
    "attends inside the windows of a grid of tokens, or halves the grid from stage to stage, and what is left after a "
    "merge is no grid"
)
_BIAS = "adds a bias for each pair of positions to its attention scores, which is not worked out for merged tokens"
_CAUSAL = Reason(
    "is a causal decoder: each token is predicted from those before it, so none of them may disappear or take in a "
    "later one (what encodes texts can merge, such as bert, roberta or mpnet)",
    (),
)

REASONS = (
    Reason(
        _WINDOWS,
        _IMAGES,
        "cvt dinat donut-swin edgetam edgetam_vision_model focalnet glpn groupvit "
        "groupvit_vision_model hiera lw_detr lw_detr_vit maskformer-swin mobilevit mobilevitv2 pvt pvt_v2 rf_detr "
        "rf_detr_dinov2 sam sam2 sam2_hiera_det_model sam2_video sam2_vision_model sam3 sam3_vision_model "
        "sam3_vit_model sam_hq sam_hq_vision_model sam_vision_model segformer seggpt swiftformer swin swin2sr swinv2 "
        "vitdet",
    ),
    Reason(_WINDOWS, _CHATS, "florence2 florence_vision"),
    Reason(_WINDOWS, (), "clap_audio_model"),
    Reason(_BIAS, _IMAGES, "beit data2vec-vision levit"),
    Reason(
        _BIAS,
        _TEXTS,
        "deberta deberta-v2 funnel layoutlmv2 layoutlmv3 longt5 mt5 switch_transformers t5 udop umt5 xlnet",
    ),
    Reason(_BIAS, (), "pop2piano sew-d wav2vec2-bert wav2vec2-conformer wavlm"),
    Reason(
        "attends along windows, blocks or hashes of the sequence, and merging would move tokens from one to another",
        _TEXTS,
        "big_bird bigbird_pegasus led longformer reformer",
    ),
    Reason(
        "packs the patches of all images into one sequence, in another form than those that can merge there, and is "
        "not supported yet",
        _PACKED,
        "ernie4_5_vl_moe_vision glm4v_moe_vision glm4v_vision glm_ocr_vision hunyuan_vl_vision kimi_k25_vision "
        "paddleocr_vl_vision pixtral qwen2_5_omni_vision_encoder qwen3_5_moe_vision qwen3_omni_moe_vision_encoder "
        "video_llama_3_vision",
    ),
    Reason(
        "has no attention among tokens, which is where tokens are compared and merge",
        _IMAGES,
        "bit convnext convnextv2 efficientnet hgnet_v2 mobilenet_v1 mobilenet_v2 poolformer regnet resnet textnet",
    ),
    Reason(
        "has no attention among tokens, which is where tokens are compared and merge",
        _TEXTS,
        "falcon_mamba fnet mamba mamba2 rwkv xlstm",
    ),
    Reason(
        "lets query tokens join the patches halfway through its layers, and multiplies them with the grid of patches",
        _IMAGES,
        "videomt",
    ),
    Reason(
        "averages patches by their places in the grid after its layers, which is not worked out for merged patches",
        _CHATS,
        "gemma4_vision",
    ),
    Reason("attends over space and over time in turn, so its tokens stand in rows of fixed length", (), "timesformer"),
    Reason(
        "can merge where the model of timm inside is a VisionTransformer (ViT, DeiT, DINOv2, the towers of CLIP and "
        "SigLIP) or an Eva (EVA-02, DINOv3), and this one is neither",
        _IMAGES,
        "timm_backbone timm_wrapper",
    ),
    Reason(
        _NOT_YET,
        _TEXTS,
        "albert flaubert megatron-bert rembert roformer xlm",
    ),
)
_BY_MODEL_TYPE = {model_type: reason for reason in REASONS for model_type in reason.model_types.split()}


def explain(config: PreTrainedConfig) -> str:
    """Sentences that say why a model of `config` cannot merge, each with a space before it; "" if nothing is known."""
    found = {model_type: _reason(model_type) for model_type in _model_types(config)}
    if found.get(config.model_type) not in (None, _CAUSAL):  # a decoder may have towers, with reasons of their own
        found = {config.model_type: found[config.model_type]}
    sentences: dict[Reason, str] = {}
    for model_type, reason in found.items():
        if reason is not None:
            nearest = f"; near it, {', '.join(reason.nearest)} can merge" if reason.nearest else ""
            sentences.setdefault(reason, f" Model type {model_type!r} {reason.text}{nearest}.")
    return "".join(sentences.values())


def _model_types(config: PreTrainedConfig) -> Iterator[str]:
    for _, part in configurations(config):
        if part.model_type and part.model_type not in SUPPORTED_MODEL_TYPES:
            yield part.model_type


def _reason(model_type: str) -> Reason | None:
    if model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    decoders = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    others = (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )
    is_decoder = model_type in decoders and not any(model_type in names for names in others)
    return _CAUSAL if is_decoder else None
