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

"""Shortening the inputs of a model to the image tokens that are left after merging.

Each image keeps the first of its placeholders, as many as it has features: the text around it, the order of the
features and contiguous positions stay. Pure functions of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ...merging import gather_tokens
from ...modeling.masks import read_cache
from ...modeling.rewrite import EncoderRewrite
from .counts import FEATURE_LAYER_NAMES, active_tower, count_features


#: Inputs with one entry per token, and what stands at padding. (PaliGemma's prefix, whose tokens all see one another,
#: is where `token_type_ids` are 0; its masks are made of the short ones.)
_PER_TOKEN = {"token_type_ids": 0, "mm_token_type_ids": 0}
IGNORED_LABEL = -100


@dataclass(frozen=True)
class ShortPrompt:
    """A batch of `B` prompts of `L` tokens, cut down to `n`.

    Attributes:
        columns (`torch.LongTensor` of shape `(B, n)`): the original column of each token.
        padding (`torch.BoolTensor` of shape `(B, n)`, *optional*):
            Columns that are padding now, whatever they held: rows that lose more than others need more padding.
        dropped_before (`torch.LongTensor` of shape `(B, L)`): placeholders that a row drops up to each column.
        pad_token_id (`int`): what stands in `input_ids` at new padding; any token but the placeholder.
    """

    columns: torch.Tensor
    padding: torch.Tensor | None
    dropped_before: torch.Tensor
    pad_token_id: int = 0

    def take(self, values: torch.Tensor, fill: int | float = 0) -> torch.Tensor:
        """`(B or 1, L, ...)` to `(B, n, ...)`, with `fill` at padding."""
        values = values.expand(len(self.columns), *values.shape[1:])
        taken = gather_tokens(values, self.columns.to(values.device))
        if self.padding is None:
            return taken
        padding = self.padding.to(values.device).view(*self.padding.shape, *[1] * (values.dim() - 2))
        return taken.masked_fill(padding, fill)

    def take_mask(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """A 2D mask; one is made where padding appeared and there was none."""
        if attention_mask is None:
            return None if self.padding is None else (~self.padding).long()
        return self.take(attention_mask)

    def take_positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Position ids without the gaps."""
        return self.take(position_ids.to(self.dropped_before.device) - self.dropped_before)


def plan_short_prompt(
    placeholders: torch.Tensor, attention_mask: torch.Tensor | None, full: int, kept: int
) -> ShortPrompt:
    """Decides what stays of every row.

    Rows that lose equally many tokens keep their padding as it is. Otherwise the padding is laid anew, on the side
    where the batch has it (left, as `generate` needs it, if it has none), for the longest row.

    Args:
        placeholders (`torch.BoolTensor` of shape `(B, L)`): where the placeholders are.
        attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*): zeros at either end of a row are padding.
        full, kept (`int`): placeholders per image now, and features per image.

    Raises:
        ValueError: if a row does not hold a whole number of images.
    """
    length = placeholders.shape[1]
    per_row = placeholders.sum(dim=1)
    if (per_row % full).any():
        raise ValueError(
            f"The rows of the prompt hold {per_row.tolist()} image placeholders, but an image takes {full} in the "
            f"processor's output, or {kept} if it writes the short number (num_image_tokens). Was a prompt truncated?"
        )
    dropped = placeholders & ((placeholders.cumsum(dim=1) - 1) % full >= kept)
    dropped_before = dropped.cumsum(dim=1)
    position = torch.arange(length, device=placeholders.device).expand_as(dropped)
    removed = dropped_before[:, -1]
    if (removed == removed[0]).all():
        order = torch.argsort(position + length * dropped, dim=1)
        return ShortPrompt(order[:, : length - int(removed[0])], None, dropped_before)
    leading = trailing = torch.zeros_like(dropped)
    if attention_mask is not None:
        real = attention_mask.to(placeholders.device).bool() | placeholders
        leading, trailing = real.cumsum(dim=1) == 0, real.flip(1).cumsum(dim=1).flip(1) == 0
    away = dropped | leading | trailing
    longest = int((~away).sum(dim=1).max())
    if trailing.any() and not leading.any():
        columns = torch.argsort(position + length * away, dim=1)[:, :longest]
    else:
        columns = torch.argsort(position + length * ~away, dim=1)[:, length - longest :]
    return ShortPrompt(columns, away.gather(1, columns), dropped_before)


def find_placeholders(model: nn.Module, input_ids: Any, inputs_embeds: Any) -> torch.Tensor:
    """`(B, L)` bool: where the image placeholders are, in ids or in embeddings (where the model looks, too)."""
    token = model.config.image_token_id
    if inputs_embeds is None:
        return input_ids == token
    embedding = model.get_input_embeddings()
    token = torch.full((), token, dtype=torch.long, device=embedding.weight.device)
    return (inputs_embeds == embedding(token).to(inputs_embeds.device)).all(-1)


def shorten_inputs(model: nn.Module, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a forward or of `generate`, with prompts as short as the image features are.

    Args:
        model: without its head.
        arguments: by name. Tensors in it are not modified.

    Returns:
        New arguments; `None` where nothing changes: no merging, no images, or a prompt that is short already.

    Raises:
        ValueError: where the prompt cannot be shortened; the message says why.
    """
    plan = plan_inputs(model, arguments)
    return None if plan is None else apply_plan(plan, arguments)


def plan_inputs(model: nn.Module, arguments: dict[str, Any]) -> ShortPrompt | None:
    """See [`shorten_inputs`]."""
    rewrite = active_tower(model)
    return None if rewrite is None or rewrite.unmerge else _plan_inputs(model, rewrite, arguments)


@torch.compiler.disable(reason="Where the images of a prompt are depends on its tokens.")
def _plan_inputs(model: nn.Module, rewrite: EncoderRewrite, arguments: dict[str, Any]) -> ShortPrompt | None:
    input_ids, inputs_embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
    if input_ids is None and inputs_embeds is None:
        return None
    images, full, kept = _count_images(model, rewrite, arguments)
    placeholders = find_placeholders(model, input_ids, inputs_embeds)
    total = int(placeholders.sum())
    if total and images and arguments.get("pixel_values") is None and total % images == 0:
        full = total // images  # the image's size is not known, its features are
    if full == kept:
        return None
    if images is not None and total == images * kept:
        if _is_full_prompt(placeholders, full):
            raise ValueError(
                f"The prompts hold {total} image placeholders in a row for {images} image(s). In the processor's "
                f"output {full} are one image, so there are more images than places for them. (If the prompt has the "
                f"short number already, {kept} for an image, put a token of text between two images.)"
            )
        return None
    if _past_length(arguments):
        # A conversation that continues from a cache: the images in it are known by their placeholders only.
        if total == 0 or (placeholders.sum(dim=1) % full).any():
            return None
    elif images is None:
        return None
    elif total != images * full:
        raise ValueError(
            f"The prompts hold {total} image placeholders for {images} image(s). An image takes {full} in the "
            f"processor's output, or {kept} if it writes the short number (num_image_tokens): expected "
            f"{images * full} or {images * kept}."
        )
    _check_arguments(arguments, placeholders)
    plan = plan_short_prompt(placeholders, _mask_of_prompt(arguments, placeholders.shape[1]), full, kept)
    token, pad_token = model.config.image_token_id, model.config.text_config.pad_token_id
    return replace(plan, pad_token_id=int(token == 0) if pad_token in (None, token) else pad_token)


def _is_full_prompt(placeholders: torch.Tensor, full: int) -> bool:
    """Whether every run of placeholders is a whole number of images as the processor writes them."""
    ends = placeholders & ~torch.nn.functional.pad(placeholders[:, 1:], (0, 1))
    return bool((placeholders.cumsum(dim=1)[ends] % full == 0).all())


def apply_plan(plan: ShortPrompt, arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments`, cut down as `plan` says."""
    length = plan.dropped_before.shape[1]
    short = dict(arguments)
    fills = {"input_ids": plan.pad_token_id, "labels": IGNORED_LABEL, **_PER_TOKEN}
    for name, fill in {"inputs_embeds": 0.0, **fills}.items():
        value = arguments.get(name)
        if value is not None and value.shape[1] == length:
            short[name] = plan.take(value, fill)
    if arguments.get("position_ids") is not None:
        short["position_ids"] = plan.take_positions(arguments["position_ids"])
    mask = plan.take_mask(_mask_of_prompt(arguments, length))
    if mask is not None:
        given = arguments.get("attention_mask")
        past = _past_length(arguments)
        if given is not None and given.shape[1] > length:
            mask = torch.cat([given[:, :-length], mask], dim=1)
        elif given is None and past:
            mask = torch.cat([mask.new_ones(len(mask), past), mask], dim=1)
        short["attention_mask"] = mask
    return short


def _count_images(model: nn.Module, rewrite: Any, arguments: dict[str, Any]) -> tuple[int | None, int, int]:
    """Images in the batch (`None`: unknown), placeholders of each in the processor's output, features of each."""
    pixel_values = arguments.get("pixel_values")
    features = (arguments.get("mm_encoder_outputs") or {}).get("image")
    layers = next((arguments[name] for name in FEATURE_LAYER_NAMES if arguments.get(name) is not None), None)
    settings = {
        "image_size": None if pixel_values is None else tuple(pixel_values.shape[-2:]),
        "layers": layers,
        "strategy": arguments.get("vision_feature_select_strategy"),
    }
    full = count_features(model.config, rewrite.architecture, (), **settings)
    kept = count_features(model.config, rewrite.architecture, rewrite.specs, **settings)
    if features is not None:
        return len(features.pooler_output), full, len(features.pooler_output[0])
    return None if pixel_values is None else len(pixel_values), full, kept


def _past_length(arguments: dict[str, Any]) -> int:
    past = read_cache(arguments)
    return 0 if past is None else past.get_seq_length()


def _mask_of_prompt(arguments: dict[str, Any], length: int) -> torch.Tensor | None:
    """The part of the 2D mask that belongs to the prompt, after what a cache holds."""
    attention_mask = arguments.get("attention_mask")
    return None if attention_mask is None else attention_mask[:, -length:]


def _check_arguments(arguments: dict[str, Any], placeholders: torch.Tensor) -> None:
    """Refuses what has no short equivalent."""
    length = placeholders.shape[1]
    attention_mask, logits_to_keep = arguments.get("attention_mask"), arguments.get("logits_to_keep")
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has {attention_mask.dim()} dimensions. A prompt that shrinks with its image tokens "
                "needs the mask of shape (batch_size, sequence_length)."
            )
        past = _past_length(arguments)
        if attention_mask.shape[1] not in (length, length + past):
            raise ValueError(
                f"attention_mask has length {attention_mask.shape[1]}, but the prompt has {length} tokens"
                + (
                    f" and the cache {past} (image tokens that merging dropped are not in it). Pass the whole "
                    "conversation as input_ids to generate, or a mask for the cache and the new tokens."
                    if past
                    else "."
                )
            )
    if isinstance(logits_to_keep, torch.Tensor):
        raise ValueError(
            "logits_to_keep is a tensor of positions, which mean something else once the image tokens that merging "
            "drops are gone. Pass the number of positions to keep, counted from the end."
        )
