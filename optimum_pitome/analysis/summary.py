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

"""[`pitome_summary`]: tokens and operations per layer, dense against merged, from shapes alone (nothing is run)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..configuration.checks import check_picture_size, plain
from ..merging import MergeSpec
from ..methods import COUNTS, ENERGIES
from ..modeling.hosts import find_readers
from ..modeling.operations import EncoderShape, linear_weights, prefill
from ..modeling.rewrite import EncoderRewrite, check_model, rewritten_encoders
from .report import EncoderSummary, LayerSummary, PiToMeSummary, ReaderSummary


def pitome_summary(
    model: nn.Module,
    num_tokens: int | Sequence[int] | None = None,
    count: str = "exact",
    num_text_tokens: int = 32,
    image_size: int | Sequence[int] | None = None,
) -> PiToMeSummary:
    """Counts tokens and operations of a rewritten model, layer by layer. Works on the `meta` device, without weights.

    Args:
        model (`torch.nn.Module`): a rewritten model.
        num_tokens (`int` or `list[int]`, *optional*):
            Sequence length with special tokens (of a text: no longer than the model reads), or one for each rewritten
            encoder. Defaults to what `image_size` makes, or the maximum text length.
        count (`str`, *optional*, defaults to `"exact"`):
            `"exact"`: attention before the merge, the MLP (with its real width) after it, and the merge step.
            `"paper"`: `12 N C² + 2 N² C` per layer with N before the merge, the merge uncounted: the paper's tables.
        num_text_tokens (`int`, *optional*, defaults to 32): tokens of text in the prompt of a LLaVA, beside the image.
        image_size (`int` or `(height, width)`, *optional*):
            Of the pictures, in pixels. Defaults to the size in the settings (`PiToMeConfig.image_size`), else in the
            configuration. The ratios stay as they are.

    Raises:
        ValueError: if the model is not rewritten, or an argument is out of range.
        TypeError: if `model` is not a module.
    """
    check_model("pitome_summary", model)
    if count not in COUNTS:
        raise ValueError(f"count={count!r} is not known. Accepted: {', '.join(map(repr, COUNTS))}.")
    num_text_tokens = plain(num_text_tokens)
    if isinstance(num_text_tokens, bool) or not isinstance(num_text_tokens, int) or num_text_tokens < 0:
        raise ValueError(f"num_text_tokens={num_text_tokens!r}: expected a whole number of at least 0.")
    encoders = rewritten_encoders(model)
    if not encoders:
        raise ValueError(
            f"This {type(model).__name__} is dense. Rewrite it first: apply_pitome(model, 0.9), or "
            "from_pretrained(..., pitome=0.9)."
        )
    lengths = list(num_tokens) if isinstance(num_tokens, (list, tuple)) else [num_tokens] * len(encoders)
    lengths = [plain(length) for length in lengths]
    whole = all(length is None or (isinstance(length, int) and length >= 1) for length in lengths)
    if not whole or len(lengths) != len(encoders):
        raise ValueError(
            f"num_tokens={num_tokens!r}: expected a sequence length of at least 1, or a list of {len(encoders)} (one "
            "per rewritten encoder), or None."
        )
    image_size = None if image_size is None else check_picture_size("image_size", image_size)
    names = {id(module): name for name, module in model.named_modules()}
    summaries = tuple(
        _summarize(encoder, names[id(encoder)] or type(encoder).__name__, length, image_size, count)
        for encoder, length in zip(encoders, lengths)
    )
    reader = _summarize_reader(model, dict(zip(map(id, encoders), summaries)), names, num_text_tokens)
    summary = PiToMeSummary(summaries, count, reader=reader)
    if reader is None and summary.gflops_merged + summary.gflops_merge_step >= summary.gflops_dense:
        if summary.gflops_dense > summary.gflops_merged:
            note = "merging costs more operations than it saves at this length; leave the model dense for such inputs."
            summary = PiToMeSummary(summaries, count, (note,))
    return summary


def _summarize(
    encoder: nn.Module, name: str, num_tokens: int | None, image_size: int | list[int] | None, count: str
) -> EncoderSummary:
    rewrite: EncoderRewrite = encoder.pitome
    shape = EncoderShape.of(encoder, rewrite.architecture, num_tokens, image_size or rewrite.config.image_size)
    layers = []
    for index, (widths, layer) in enumerate(zip(shape.widths, shape.count(rewrite.specs))):
        dense, merged, step = layer.dense, layer.merged, layer.merge_step
        if count == "paper":
            dense, merged = (
                12 * tokens * widths.hidden**2 + 2 * tokens**2 * widths.hidden
                for tokens in (shape.num_tokens, layer.tokens_in)
            )
            merged, step = merged if layer.runs else 0, 0
        numbers = (operations / 1e9 for operations in (dense, merged, step))
        layers.append(LayerSummary(index, layer.tokens_in, layer.tokens_out, *numbers, layer.runs))
    # Protected tokens are counted in what a layer leaves over, and they must be fewer.
    max_protected = max(layers[-1].tokens_out - shape.num_special - 1, 0)
    return EncoderSummary(name, tuple(layers), _resolved_settings(rewrite), shape.num_special, max_protected)


def _resolved_settings(rewrite: EncoderRewrite) -> dict[str, Any]:
    """The fields of the layers that merge; a list where they differ."""
    merging = {index: spec for index, spec in enumerate(rewrite.specs) if not spec.ratio.is_dense}
    if not merging:
        return {"ratio": 1.0}
    specs = list(merging.values())

    def of_each(values: list) -> Any:
        return values[0] if all(value == values[0] for value in values) else values

    settings = {"ratio": of_each([spec.ratio.kept for spec in specs]), "layers": list(merging)}
    for name in ("algorithm", "energy", "metric", "importance"):
        settings[name] = of_each([getattr(spec, name) for spec in specs])
    if any(ENERGIES[spec.energy].has_margin for spec in specs):
        settings["margin"] = of_each([round(spec.margin, 6) for spec in specs])
        settings["alpha"] = of_each([spec.alpha for spec in specs])
    settings["min_tokens"] = of_each([spec.ratio.min_tokens for spec in specs])
    if any(spec.ratio.multiple_of > 1 for spec in specs):
        settings["multiple_of"] = of_each([spec.ratio.multiple_of for spec in specs])
    settings["proportional_attention"] = of_each([spec.proportional_attention for spec in specs])
    for name in ("weighted_by", "keep_norm", "after"):
        if any(getattr(spec, name) != getattr(MergeSpec, name) for spec in specs):
            settings[name] = of_each([getattr(spec, name) for spec in specs])
    return {**settings, "unmerge": rewrite.unmerge, "protect_token_ids": list(rewrite.protect_token_ids)}


def _summarize_reader(
    model: nn.Module, summaries: dict[int, EncoderSummary], names: dict[int, str], num_text_tokens: int
) -> ReaderSummary | None:
    for reader in find_readers(model):
        summary = summaries.get(id(reader.encoder))
        if summary is None:
            continue
        rewrite = reader.encoder.pitome
        left = summary.tokens[0 if rewrite.unmerge else max(rewrite.architecture.reads, default=-1)]
        images = [tokens - reader.num_dropped for tokens in (summary.tokens[0], left)]
        projector = linear_weights(reader.projector)
        gflops = [
            (tokens * projector + prefill(reader.language_model, tokens + num_text_tokens)) / 1e9 for tokens in images
        ]
        return ReaderSummary(names[id(reader.language_model)], *images, num_text_tokens, *gflops)
    return None
