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

"""Inputs made up for an export: what is traced, and what the written file is then compared on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..modeling.pictures import picture_shape


#: Longest text that is made up, in tokens.
_LONGEST = 128


@dataclass(frozen=True)
class Samples:
    """Makes inputs of a model.

    Attributes:
        size (`tuple[int, int, int]`): channels, height and width of pictures; of texts, unused.
        vocab_size, max_length (`int`): of texts: token ids, and tokens of the longest.
        names (`tuple[str, ...]`): the inputs; `("pixel_values",)` for pictures.
        cls_token_id, sep_token_id, pad_token_id (`int`): of texts.
    """

    names: tuple[str, ...] = ("pixel_values",)
    size: tuple[int, int, int] = (3, 224, 224)
    vocab_size: int = 0
    max_length: int = 0
    cls_token_id: int = 0
    sep_token_id: int = 0
    pad_token_id: int = 0

    @property
    def is_text(self) -> bool:
        return self.names != ("pixel_values",)

    def example(self) -> dict[str, torch.Tensor]:
        """What is traced: two samples, texts of different lengths."""
        if not self.is_text:
            return self.pictures(2, seed=0)
        longest = min(self.max_length, _LONGEST)
        return self.texts([longest, longest - longest // 4], seed=0)

    def fresh(self) -> Iterator[dict[str, torch.Tensor]]:
        """What the file is compared on: other batch sizes, and other lengths, padded and not, down to one word."""
        if not self.is_text:
            yield from (self.pictures(batch_size, seed=batch_size) for batch_size in (1, 3))
            return
        longest = min(self.max_length, _LONGEST)
        middle = max(longest // 2, 3)
        for seed, lengths in enumerate(
            ([longest], [middle, max(middle // 2, 3), middle - 1], [3, 3], [7, 4, 3, 5, 7])
        ):
            yield self.texts([min(length, longest) for length in lengths], seed=1 + seed)

    def pictures(self, batch_size: int, seed: int) -> dict[str, torch.Tensor]:
        """Smooth noise with flat areas, `(batch_size, C, H, W)`: patches of white noise would all be alike."""
        generator = torch.Generator().manual_seed(seed)
        channels, height, width = self.size
        coarse = torch.randn(batch_size, channels, 6, 6, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
        fine = 0.05 * torch.randn(batch_size, channels, height, width, generator=generator)
        return {"pixel_values": smooth.clamp(-1.5, 1.5) + fine}

    def texts(self, lengths: list[int], seed: int) -> dict[str, torch.Tensor]:
        """Random words between a first and a last token, padded on the right, `(len(lengths), max(lengths))`."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(self.vocab_size // 10, self.vocab_size, (len(lengths), max(lengths)), generator=generator)
        ends, position = torch.tensor(lengths).unsqueeze(1), torch.arange(max(lengths))
        ids = ids.masked_fill(position == 0, self.cls_token_id).masked_fill(position == ends - 1, self.sep_token_id)
        mask = (position < ends).long()
        made = {"input_ids": ids.masked_fill(mask == 0, self.pad_token_id), "attention_mask": mask}
        return {name: made.get(name, torch.zeros_like(ids)) for name in self.names}


def shape_of(inputs: Sequence[Mapping[str, Any]], processor: Any = None) -> tuple[int, int, int] | None:
    """The shape of the pictures that will come, where `inputs` or an image processor tell it."""
    if inputs and "pixel_values" in inputs[0]:
        shape = tuple(inputs[0]["pixel_values"].shape[1:])
    elif "pixel_values" in getattr(processor, "model_input_names", ()) and not hasattr(processor, "tokenizer"):
        shape = picture_shape(processor)
    else:
        return None
    return shape if len(shape) == 3 else None


def samples_for(
    config: Any,
    kind: str,
    names: tuple[str, ...],
    processor: Any = None,
    size: tuple[int, int, int] | None = None,
) -> Samples:
    """Inputs of the sizes and token ids that the configuration and the tokenizer say.

    Args:
        config: of the model, or of the part that is exported.
        kind (`str`): `"image"` or `"text"`.
        processor (*optional*): tokenizer.
        size (`tuple[int, int, int]`, *optional*): of pictures, where the configuration is not asked.

    Raises:
        ValueError: if the configuration does not say the size of its inputs.
    """
    if kind == "image" and size is not None:
        return Samples(size=size)
    if kind == "image":
        config = getattr(config, "vision_config", config)
        size = getattr(config, "image_size", None)
        if size is None:
            raise ValueError(f"The configuration of {config.model_type} has no image_size, so no picture can be made.")
        height, width = (size, size) if isinstance(size, int) else size
        return Samples(size=(getattr(config, "num_channels", 3), height, width))
    config = getattr(config, "text_config", config)
    limits = [getattr(config, "max_position_embeddings", None), getattr(processor, "model_max_length", None)]
    limits = [limit for limit in limits if limit is not None] or [_LONGEST]
    # Two less: positions of RoBERTa and its relatives start after the padding token's.
    longest = max(min(limits) - 2, 4)

    def token_id(*candidates: str) -> int:
        sources = [(source, name) for name in candidates for source in (processor, config)]
        found = (getattr(source, name, None) for source, name in sources)
        return next((value for value in found if isinstance(value, int)), 1)

    return Samples(
        names=names,
        vocab_size=config.vocab_size,
        max_length=longest,
        cls_token_id=token_id("cls_token_id", "bos_token_id"),
        sep_token_id=token_id("sep_token_id", "eos_token_id"),
        pad_token_id=token_id("pad_token_id"),
    )


def text_inputs(config: Any, processor: Any = None) -> tuple[str, ...]:
    """The inputs of a text model: token types where its tokenizer makes them, or, without one, where it reads them."""
    names = ("input_ids", "attention_mask")
    if processor is not None:
        return (*names, "token_type_ids") if "token_type_ids" in processor.model_input_names else names
    return (*names, "token_type_ids") if getattr(config, "type_vocab_size", 1) > 1 else names


def to_device(inputs: Mapping[str, torch.Tensor], like: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The inputs where the model is, pictures in its dtype."""
    weight = next(like.parameters())
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
