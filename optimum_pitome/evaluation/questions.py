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

"""Questions about pictures, and captions, as the processor of a vision-language model wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


#: Longest text in tokens, for models that read more.
MAX_LENGTH = 512


def rgb(images: Sequence[Any]) -> list[Any]:
    """PIL pictures in three channels.

    Raises:
        ValueError: if one is missing.
    """
    if any(image is None for image in images):
        raise ValueError("A row has no picture: leave such rows out (datasets.Dataset.filter).")
    return [image.convert("RGB") for image in images]


def encode_questions(processor: Any, images: Sequence[Any], questions: Sequence[str], instruction: str = "") -> Any:
    """A padded batch with one picture in front of every question, in the chat template of `processor`.

    The prompt has as many image tokens as the dense model; a rewritten one takes out those that it merges.

    Args:
        processor: of the model, such as a `LlavaProcessor`.
        images: PIL pictures.
        questions: one per picture.
        instruction (`str`, *optional*): appended to every question.

    Returns:
        `BatchFeature`: tensors under the names of the model's arguments.
    """
    texts = []
    for question in questions:
        text = f"{question}\n{instruction}" if instruction else question
        content = [{"type": "image"}, {"type": "text", "text": text}]
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    return processor(images=[[image] for image in rgb(images)], text=texts, padding=True, return_tensors="pt")


def encode_captions(
    model: Any, processor: Any, batch: Mapping[str, Any], max_length: int | None = None
) -> dict[str, Any]:
    """`batch` with the token ids of its `captions` (a list of texts per picture), as a model of two towers reads them.

    Args:
        model: CLIP, SigLIP, BLIP or a dual encoder.
        processor: of the model, with a `tokenizer`.
        max_length (`int`, *optional*): longest caption in tokens; defaults to what the model reads, at most 512.
    """
    reads = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", MAX_LENGTH)
    encoded = processor.tokenizer(
        [text for of_picture in batch["captions"] for text in of_picture],
        # SigLIP was trained with, and pools at the end of, captions of one length.
        padding="max_length" if "siglip" in model.config.model_type else True,
        truncation=True,
        max_length=max_length or min(reads, MAX_LENGTH),
        return_tensors="pt",
    )
    return {**batch, **encoded}
