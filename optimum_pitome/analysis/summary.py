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

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..merging import MergeSpec, TokenMasks
from ..modeling.registry import Architecture
from ..modeling.rewrite import EncoderRewrite, rewritten_encoders


COUNTS = ("exact", "paper")


@dataclass(frozen=True)
class LayerSummary:
    """One layer. A multiply-add counts as one operation, as in the paper's tables.

    Attributes:
        index (`int`): position in the encoder.
        tokens_in, tokens_out (`int`): sequence length before and behind the merge, special tokens included.
        gflops_dense, gflops_merged (`float`): 10**9 operations of the layer without and with merging.
        gflops_merge_step (`float`): 10**9 operations of matching and merging themselves.
    """

    index: int
    tokens_in: int
    tokens_out: int
    gflops_dense: float
    gflops_merged: float
    gflops_merge_step: float


@dataclass(frozen=True)
class EncoderSummary:
    """One rewritten encoder; the sums run over its layers (embeddings and heads are not in it)."""

    name: str
    layers: tuple[LayerSummary, ...]

    @property
    def tokens(self) -> list[int]:
        """Sequence length in front of every layer, and behind the last."""
        return [layer.tokens_in for layer in self.layers] + [self.layers[-1].tokens_out]

    @property
    def gflops_dense(self) -> float:
        return sum(layer.gflops_dense for layer in self.layers)

    @property
    def gflops_merged(self) -> float:
        return sum(layer.gflops_merged for layer in self.layers)

    @property
    def gflops_merge_step(self) -> float:
        return sum(layer.gflops_merge_step for layer in self.layers)


@dataclass(frozen=True)
class PiToMeSummary:
    """What merging saves in a model, for one sample. `print` shows the table.

    Attributes:
        encoders (`tuple[EncoderSummary, ...]`): every rewritten encoder.
        count (`str`): `"exact"` or `"paper"`.
    """

    encoders: tuple[EncoderSummary, ...]
    count: str = "exact"
    notes: tuple[str, ...] = field(default=())

    @property
    def layers(self) -> tuple[LayerSummary, ...]:
        """The layers of all encoders, in order."""
        return tuple(layer for encoder in self.encoders for layer in encoder.layers)

    @property
    def tokens(self) -> list[int]:
        """Sequence lengths through the first encoder (the only one of most models)."""
        return self.encoders[0].tokens

    @property
    def gflops_dense(self) -> float:
        return sum(encoder.gflops_dense for encoder in self.encoders)

    @property
    def gflops_merged(self) -> float:
        """Without the merge step."""
        return sum(encoder.gflops_merged for encoder in self.encoders)

    @property
    def gflops_merge_step(self) -> float:
        return sum(encoder.gflops_merge_step for encoder in self.encoders)

    @property
    def flops_ratio(self) -> float:
        """How many times fewer operations the merged model needs, the merge step included in the exact count."""
        return self.gflops_dense / (self.gflops_merged + self.gflops_merge_step)

    def __str__(self) -> str:
        lines = []
        row = "{:>5}  {:>13}  {:>9}  {:>9}  {:>9}"
        for encoder in self.encoders:
            lines.append(f"{encoder.name}: GFLOPs per sample ({self.count} count, multiply-add = 1)")
            lines.append(row.format("layer", "tokens", "dense", "merged", "merging"))
            for layer in encoder.layers:
                tokens = f"{layer.tokens_in} -> {layer.tokens_out}"
                numbers = (layer.gflops_dense, layer.gflops_merged, layer.gflops_merge_step)
                lines.append(row.format(layer.index, tokens, *(f"{number:.4g}" for number in numbers)))
            tokens = f"{encoder.tokens[0]} -> {encoder.tokens[-1]}"
            numbers = (encoder.gflops_dense, encoder.gflops_merged, encoder.gflops_merge_step)
            lines.append(row.format("all", tokens, *(f"{number:.4g}" for number in numbers)))
        lines.append(f"{self.flops_ratio:.2f}x fewer operations than the dense model")
        lines.extend(f"Note: {note}" for note in self.notes)
        return "\n".join(lines)


def pitome_summary(
    model: nn.Module, num_tokens: int | Sequence[int] | None = None, count: str = "exact"
) -> PiToMeSummary:
    """Counts tokens and operations of a rewritten model, layer by layer. Works on the `meta` device, without weights.

    Args:
        model (`torch.nn.Module`): a rewritten model.
        num_tokens (`int` or `list[int]`, *optional*):
            Sequence length with special tokens (of a text: no longer than the model reads), or one for each rewritten
            encoder. Defaults to the configured image size, or maximum text length.
        count (`str`, *optional*, defaults to `"exact"`):
            `"exact"`: attention before the merge, the MLP (with its real width) behind it, and the merge step.
            `"paper"`: `12 N C² + 2 N² C` per layer with N before the merge, the merge uncounted: the paper's tables.

    Raises:
        ValueError: if the model is not rewritten, or an argument is out of range.
    """
    if count not in COUNTS:
        raise ValueError(f"count={count!r} is not known. Accepted: {', '.join(map(repr, COUNTS))}.")
    encoders = rewritten_encoders(model)
    if not encoders:
        raise ValueError(
            f"This {type(model).__name__} is dense. Rewrite it first: apply_pitome(model, 0.9), or "
            "from_pretrained(..., pitome=0.9)."
        )
    lengths = list(num_tokens) if isinstance(num_tokens, (list, tuple)) else [num_tokens] * len(encoders)
    whole = all(length is None or (isinstance(length, int) and length >= 1) for length in lengths)
    if not whole or len(lengths) != len(encoders):
        raise ValueError(
            f"num_tokens={num_tokens!r}: expected a sequence length of at least 1, or a list of {len(encoders)} (one "
            "per rewritten encoder), or None."
        )
    names = {id(module): name for name, module in model.named_modules()}
    summaries = tuple(
        EncoderSummary(names[id(encoder)] or type(encoder).__name__, _count_layers(encoder, length, count))
        for encoder, length in zip(encoders, lengths)
    )
    summary = PiToMeSummary(summaries, count)
    if summary.gflops_merged + summary.gflops_merge_step >= summary.gflops_dense > summary.gflops_merged:
        note = "merging costs more operations than it saves at this length; leave the model dense for such inputs."
        summary = PiToMeSummary(summaries, count, (note,))
    return summary


def _count_layers(encoder: nn.Module, num_tokens: int | None, count: str) -> tuple[LayerSummary, ...]:
    rewrite: EncoderRewrite = encoder.pitome
    architecture, config = rewrite.architecture, encoder.config
    longest = None if architecture.num_tokens is None else architecture.num_tokens(config)
    if num_tokens is None and longest is None:
        raise ValueError(f"{type(encoder).__name__} has no default sequence length: pass num_tokens.")
    if num_tokens is None:
        num_tokens = longest
    elif architecture.part == "text" and longest is not None and num_tokens > longest:
        raise ValueError(f"num_tokens={num_tokens}: {type(encoder).__name__} reads {longest} tokens at most.")
    masks = TokenMasks(rewrite.num_prefix_tokens, max_special=_max_special(architecture, num_tokens))
    layers, tokens = [], num_tokens
    for index, (layer, spec) in enumerate(zip(architecture.find_layers(encoder), rewrite.specs)):
        runs = architecture.num_layers_run is None or index < architecture.num_layers_run
        mergeable = max(tokens - masks.num_prefix_tokens - masks.max_special, 0)
        removed = spec.ratio.num_removed(mergeable) if runs else 0
        widths = _widths(layer, architecture, config)
        if count == "paper":
            dense = 12 * num_tokens * widths.hidden**2 + 2 * num_tokens**2 * widths.hidden
            merged = 12 * tokens * widths.hidden**2 + 2 * tokens**2 * widths.hidden
            step = 0
        else:
            dense = widths.operations(num_tokens, num_tokens)
            merged = widths.operations(tokens, tokens - removed)
            step = _merge_step(spec, tokens - masks.num_prefix_tokens, removed, widths) if removed else 0
        numbers = (dense / 1e9, merged / 1e9 if runs else 0.0, step / 1e9)
        layers.append(LayerSummary(index, tokens, tokens - removed, *numbers))
        tokens -= removed
    return tuple(layers)


def _max_special(architecture: Architecture, num_tokens: int) -> int:
    if architecture.special_tokens is None:
        return 0
    ones = torch.ones(1, num_tokens, dtype=torch.long)
    # Encoders that get no token ids know fewer special tokens.
    takes_ids = "input_ids" in inspect.signature(architecture.encoder_class.forward).parameters
    inputs = {"input_ids": ones} if takes_ids else {"hidden_states": ones.unsqueeze(-1)}
    return architecture.special_tokens({**inputs, "attention_mask": ones})[1]


@dataclass(frozen=True)
class _Widths:
    """Weights that each token meets in a layer, and the widths that the merge step sees."""

    attention: int
    mlp: int
    hidden: int
    heads: int

    def operations(self, tokens_in: int, tokens_out: int) -> int:
        # QK^T and the weighted sum of the values: N² per feature each.
        return tokens_in * self.attention + 2 * tokens_in**2 * self.hidden + tokens_out * self.mlp


def _widths(layer: nn.Module, architecture: Architecture, config) -> _Widths:
    # `attention.self` is the module that attends; its output projection lies beside it, under `attention`.
    attention_root = layer.get_submodule(architecture.attention.split(".")[0])
    inside = {id(module) for module in attention_root.modules()}
    attention = mlp = 0
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            weights = module.in_features * module.out_features
            if id(module) in inside:
                attention += weights
            else:
                mlp += weights
    return _Widths(attention, mlp, config.hidden_size, config.num_attention_heads)


def _merge_step(spec: MergeSpec, mergeable: int, removed: int, widths: _Widths) -> int:
    """Operations of one merge of `removed` out of `mergeable` tokens, special tokens aside."""
    dim = widths.hidden if spec.metric == "hidden_states" else widths.hidden // widths.heads
    reading = mergeable * (widths.hidden if spec.metric == "keys" else 0) + mergeable * dim  # head mean, norm
    reading += mergeable * widths.hidden if spec.importance else 0  # one query's scores
    if spec.algorithm == "random":
        return removed * widths.hidden
    if spec.algorithm == "tome":
        similarity = (mergeable // 2) * ((mergeable + 1) // 2) * dim
    elif spec.algorithm == "pitome_unprotected":
        similarity = mergeable**2 * (dim + 1) + (mergeable // 2) * ((mergeable + 1) // 2) * dim
    else:
        similarity = mergeable**2 * (dim + 1)
    return reading + similarity + mergeable * widths.hidden
