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

"""Inputs that are made up from a model's configuration and the parameters of its forward."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from ..apply import pitome_disabled
from ..export.samples import Samples
from ..modeling.registry import encoder_configs, find_architecture


#: Tokens of text beside an image, unless a sequence length was said.
TEXT_TOKENS = 32
#: Ten seconds of 16 kHz.
_SAMPLES = 160000
#: Configurations that may say the size of pictures.
_PARTS = ("vision_config", "encoder", "backbone_config")


def example_inputs(
    model: nn.Module,
    batch_size: int,
    sequence_length: int | None = None,
    image_size: int | list[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Pictures (smooth noise), clips, sounds, texts of random words without padding, or what of these a model takes
    together: of a model that reads images inside its prompt, a prompt with one image.

    Args:
        sequence_length (`int`, *optional*): tokens of a text; without special tokens, where it stands beside an image.
        image_size (`int` or `[height, width]`, *optional*): of pictures and clips; by default the configured size.

    Raises:
        ValueError: if the model takes what cannot be made up, or a length is given and it reads no text.
    """
    names, config = inspect.signature(model.forward).parameters, model.config
    found: dict[str, torch.Tensor] = {}
    for name in ("pixel_values", "pixel_values_videos", "input_values", "input_features"):
        if name in names and not found and (value := _signal(name, model, batch_size, image_size)) is not None:
            found[name] = value.to(model.dtype)
    found |= _squares_of_patches(names, model, batch_size)
    whole = getattr(config, "vlm_config", config)
    text = getattr(whole, "text_config", None) or whole
    text = text if hasattr(text, "vocab_size") else getattr(text, "encoder", text)
    hears = "input_values" in found or "input_features" in found
    if getattr(config, "is_encoder_decoder", False) or hasattr(config, "decoder"):
        decoder = getattr(config, "decoder", config)
        start = getattr(config, "decoder_start_token_id", None) or getattr(decoder, "bos_token_id", None) or 1
        found["decoder_input_ids"] = torch.full((batch_size, 1), start)
    if "input_ids" in names and hasattr(text, "vocab_size") and not hears:
        found |= _text(model, text, batch_size, sequence_length, found)
    elif sequence_length is not None:
        raise ValueError("--sequence-length is for texts: an image's tokens follow from its size (--image-size).")
    if "qformer_input_ids" in names:
        found["qformer_input_ids"] = torch.randint(5, config.qformer_config.vocab_size, (batch_size, TEXT_TOKENS))
    missing = [
        name
        for name, parameter in names.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    missing = [name for name in missing if name not in found]
    if missing or not found:
        what = ", ".join(missing) or "what is not known"
        raise ValueError(f"{type(model).__name__} takes {what}, which is not made up here.")
    return found


def _signal(name: str, model: nn.Module, batch_size: int, image_size: int | list[int] | None) -> torch.Tensor | None:
    """Pictures, clips or sounds; `None` where no configuration says their size."""
    parts = (getattr(model.config, part, None) for part in _PARTS)
    for part in (model.config, *parts, *encoder_configs(model)):
        size = getattr(part, "image_size", None) or getattr(part, "crop_size", None)
        if name.startswith("pixel_values") and size is not None:
            size = image_size or size
            height, width = (size, size) if isinstance(size, int) else size
            channels = getattr(part, "num_channels", None) or getattr(part, "in_chans", 3)
            frames = getattr(part, "num_frames", None) or getattr(part, "frames_per_clip", None)
            pictures = Samples(size=(channels, height, width)).pictures(batch_size * (frames or 1), seed=0)
            pictures = pictures["pixel_values"]
            return pictures if frames is None else pictures.unflatten(0, (batch_size, frames))
        if name == "input_values" and hasattr(part, "num_mel_bins") and hasattr(part, "max_length"):
            return torch.randn(batch_size, part.max_length, part.num_mel_bins)
        if name == "input_values" and hasattr(part, "conv_stride"):
            return torch.randn(batch_size, _SAMPLES)
        if name == "input_features" and hasattr(part, "max_source_positions"):
            return torch.randn(batch_size, part.num_mel_bins, 2 * part.max_source_positions)
    return None


def _squares_of_patches(names: Any, model: nn.Module, batch_size: int) -> dict[str, torch.Tensor]:
    """Pictures that are cut into patches before the model, as many as its encoder counts with."""
    if "grid_thw" not in names and "spatial_shapes" not in names:
        return {}
    encoder, architecture = next(
        (module, entry) for module in model.modules() if (entry := find_architecture(module)) is not None
    )
    config = architecture.config_of(encoder)
    side = math.isqrt(architecture.num_tokens(config))
    width = getattr(config, "in_channels", 3) * getattr(config, "temporal_patch_size", 1) * config.patch_size**2
    if "grid_thw" in names:
        patches = torch.randn(batch_size * side**2, width).to(model.dtype)
        return {"hidden_states": patches, "grid_thw": torch.tensor([[1, side, side]] * batch_size)}
    return {
        "pixel_values": torch.randn(batch_size, side**2, width).to(model.dtype),
        "pixel_attention_mask": torch.ones(batch_size, side**2, dtype=torch.long),
        "spatial_shapes": torch.tensor([[side, side]] * batch_size),
    }


def _text(
    model: nn.Module, text: Any, batch_size: int, length: int | None, others: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    placeholder = _placeholder(getattr(model.config, "vlm_config", model.config))
    longest = _longest(model, text)
    if placeholder is None:
        length = length or longest
        if length is None:
            raise ValueError(f"{type(model).__name__} does not say how long its texts are: use --sequence-length.")
        length = min(length, longest or length)
    else:
        length = length or min(TEXT_TOKENS, (longest or TEXT_TOKENS) // 2)
    ids = torch.randint(5, text.vocab_size, (batch_size, length))
    if placeholder is not None:
        ids = ids.masked_fill(ids == placeholder, 4)
        images = torch.full((batch_size, _image_tokens(model, others)), placeholder)
        ids = torch.cat([ids[:, :1], images, ids[:, 1:]], dim=1)
    eos = getattr(text, "eos_token_id", None)
    if placeholder is None and isinstance(eos, int) and "pixel_values" in others:
        ids[:, -1] = eos  # the texts of CLIP are read where they end
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _longest(model: nn.Module, text: Any) -> int | None:
    """Tokens of the longest text: of an encoder that can merge, those that it counts with (RoBERTa's positions, say,
    start after the padding token's)."""
    found = ((module, find_architecture(module)) for module in model.modules())
    known = [
        entry.num_tokens(entry.config_of(module))
        for module, entry in found
        if entry is not None and entry.part == "text" and entry.num_tokens is not None
    ]
    return min(known, default=getattr(text, "max_position_embeddings", None))


def _placeholder(config: Any) -> int | None:
    """The id of the token that stands for a feature of the image, in models that read images inside a prompt."""
    names = ("image_token_id", "image_token_index")
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)


@torch.no_grad()
def _image_tokens(model: nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    """How many features the dense model makes of one image."""
    unknown = f"{type(model).__name__} makes its image features in a way that is not known here."
    inner = next((module for module in model.modules() if hasattr(module, "get_image_features")), None)
    if "pixel_values" not in inputs or inner is None:
        raise ValueError(unknown)
    first, device = inputs["pixel_values"][:1], next(model.parameters()).device
    needed = inspect.signature(inner.get_image_features).parameters.values()
    if sum(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in needed) > 1:
        raise ValueError(unknown)  # tiles of several sizes
    try:
        with pitome_disabled(model):
            features = inner.get_image_features(pixel_values=first.to(device))
    except ValueError as error:  # lists of pictures
        raise ValueError(unknown) from error
    features = getattr(features, "pooler_output", features)
    features = torch.cat(list(features)) if isinstance(features, (tuple, list)) else features
    return features.numel() // features.shape[-1]
