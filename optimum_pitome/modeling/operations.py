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

"""What an encoder, a merge step and the prefill of a language model cost, from the shapes of their weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..merging import MergeSpec
from ..methods import ALGORITHMS, SHORTENING
from .architecture import Architecture


def linear_weights(module: nn.Module, adapters: bool = True) -> int:
    """How many weights each token meets in the linear layers of `module`, whatever their classes.

    Dynamically quantised layers, GPT-2's `Conv1D` and the like are no `nn.Linear`. Around a layer that an adapter of
    PEFT wraps, the layer itself counts once, and (with `adapters`) those that are active and not merged into it.
    """
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.Module):
        resting = not adapters or getattr(module, "merged", False) or getattr(module, "disable_adapters", False)
        active = [] if resting else getattr(module, "active_adapters", [])
        kinds = [kind for kind in module.children() if isinstance(kind, nn.ModuleDict)]
        running = [kind[name] for kind in kinds for name in active if name in kind]
        return linear_weights(base, adapters) + sum(map(linear_weights, running))
    # What wraps a linear layer often repeats its sizes: only the innermost module counts.
    return sum(linear_weights(child, adapters) for child in module.children()) or _own_weights(module)


def _own_weights(module: nn.Module) -> int:
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if all(isinstance(size, int) for size in sizes):  # packed weights have another shape, or are no tensor
        return sizes[0] * sizes[1]
    weight = getattr(module, "weight", None)
    is_matrix = isinstance(weight, torch.Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
    return weight.numel() if is_matrix else 0


@dataclass(frozen=True)
class Widths:
    """Weights that each token meets in a layer, and the widths that the merge step sees."""

    attention: int
    mlp: int
    hidden: int
    heads: int

    @classmethod
    def of(cls, layer: nn.Module, architecture: Architecture, config: Any, adapters: bool = True) -> Widths:
        # `attention.self` is the module that attends; its output projection lies beside it, under `attention`.
        attention = linear_weights(layer.get_submodule(architecture.attention.split(".")[0]), adapters)
        mlp = linear_weights(layer, adapters) - attention
        return cls(attention, mlp, architecture.width(config), config.num_attention_heads)

    def operations(self, through_attention: int, through_mlp: int) -> int:
        # QK^T and the weighted sum of the values: N² per feature each.
        return through_attention * self.attention + 2 * through_attention**2 * self.hidden + through_mlp * self.mlp


@dataclass(frozen=True)
class LayerCount:
    """One layer: tokens (special ones included) before and after the merge, operations dense and merged, and of the
    merge itself, and whether anything reads what the layer computes."""

    tokens_in: int
    tokens_out: int
    dense: int
    merged: int
    merge_step: int
    runs: bool


@dataclass(frozen=True)
class EncoderShape:
    """What the operations of an encoder follow from.

    Attributes:
        widths (`tuple[Widths, ...]`): of each layer.
        num_tokens (`int`): that enter, special ones included.
        num_special (`int`): so many of them never merge, the prefix included.
        num_prefix_tokens (`int`): special tokens at the front.
        num_layers_run (`int`): layers that run.
    """

    widths: tuple[Widths, ...]
    num_tokens: int
    num_special: int
    num_prefix_tokens: int
    num_layers_run: int

    @classmethod
    def of(
        cls,
        encoder: nn.Module,
        architecture: Architecture,
        num_tokens: int | None = None,
        image_size: int | list[int] | None = None,
        num_layers: int | None = None,
        adapters: bool = True,
    ) -> EncoderShape:
        """The shape of `encoder`, which may lie on the meta device.

        Args:
            num_tokens (`int`, *optional*): that enter. `None`: those of a picture, or of the longest text.
            image_size (`int` or `[height, width]`, *optional*): of the picture; by default the configured size.
            num_layers (`int`, *optional*): where `encoder` has one layer that stands for so many.
            adapters (`bool`): whether adapters of PEFT count.

        Raises:
            ValueError: if nobody says how many tokens enter, or the encoder reads fewer.
        """
        config = architecture.config_of(encoder)
        longest = architecture.count_tokens(config, image_size)
        if num_tokens is None and longest is None:
            raise ValueError(
                f"{type(encoder).__name__} has no default sequence length, which operations are counted at: say it in "
                "register_architecture(..., num_tokens=...). To pitome_summary it can be passed, too (num_tokens=...)."
            )
        if num_tokens is None:
            num_tokens = longest
        elif architecture.part == "text" and longest is not None and num_tokens > longest:
            raise ValueError(f"{num_tokens} tokens are too many: {type(encoder).__name__} reads {longest} at most.")
        prefix = architecture.count_prefix(config)
        widths = [Widths.of(layer, architecture, config, adapters) for layer in architecture.find_layers(encoder)]
        widths = widths if num_layers is None else widths[:1] * num_layers
        num_run = len(widths) if architecture.num_layers_run is None else architecture.num_layers_run
        special = prefix + architecture.count_suffix(config) + _max_special(architecture, num_tokens)
        return cls(tuple(widths), num_tokens, special, prefix, num_run)

    def count(self, specs: Sequence[MergeSpec]) -> Iterator[LayerCount]:
        """Tokens and operations of every layer; a multiply-add counts as one operation, as in the paper's tables."""
        tokens, mergeable = self.num_tokens, max(self.num_tokens - self.num_special, 0)
        for index, (widths, spec) in enumerate(zip(self.widths, specs)):
            runs = index < self.num_layers_run
            removed = spec.ratio.num_removed(mergeable, self.num_special) if runs else 0
            step = merge_step(spec, tokens - self.num_prefix_tokens, removed, widths) if removed else 0
            dense = widths.operations(self.num_tokens, self.num_tokens)
            through_mlp = tokens if spec.after == "layer" else tokens - removed
            merged = widths.operations(tokens, through_mlp) if runs else 0
            yield LayerCount(tokens, tokens - removed, dense, merged, step, runs)
            tokens, mergeable = tokens - removed, mergeable - removed


def _max_special(architecture: Architecture, num_tokens: int) -> int:
    """How many tokens after the prefix are special in a sample of `num_tokens`, at most."""
    if architecture.special_tokens is None:
        return 0
    ones = torch.ones(1, num_tokens, dtype=torch.long)
    # Encoders that get no token ids know fewer special tokens.
    inputs = {"input_ids": ones} if architecture.reads_token_ids else {"hidden_states": ones.unsqueeze(-1)}
    return architecture.special_tokens({**inputs, "attention_mask": ones})[1]


def merge_step(spec: MergeSpec, mergeable: int, removed: int, widths: Widths) -> int:
    """Operations of one merge of `removed` out of `mergeable` tokens, special tokens aside."""
    dim = widths.hidden if spec.metric == "hidden_states" else widths.hidden // widths.heads
    algorithm = ALGORITHMS[spec.algorithm]
    combining = _combining(spec.combine, mergeable, removed, widths.hidden)
    if spec.combine == "mlerp" or spec.keep_norm and spec.combine in SHORTENING:
        combining += (3 * mergeable - 2 * removed) * widths.hidden  # norms before and after, scaling
    if algorithm.comparisons is None:
        return combining
    reading = mergeable * (widths.hidden if spec.metric == "keys" else 0) + mergeable * dim  # head mean, norm
    reading += mergeable * widths.hidden if spec.reads_attention else 0  # one query's scores
    energy = mergeable**2 if algorithm.reads_energy else 0
    return reading + algorithm.comparisons(mergeable, removed) * dim + energy + combining


def _combining(combine: str, mergeable: int, removed: int, width: int) -> int:
    """Operations that make `mergeable - removed` tokens of `width` features out of `mergeable`."""
    kept = mergeable - removed
    if combine in ("prune", "target"):
        return removed * width
    if combine == "resample":
        # The matrices, to the spectrum, and back.
        return kept * (mergeable + kept) + kept * mergeable * width + kept**2 * width
    return mergeable * width


def prefill(language_model: nn.Module, num_tokens: int) -> int:
    """Operations of a language model on a prompt, without its head, which reads the last token only. Attention counts
    as in an encoder: N² scores per head, though half of them are masked."""
    config = language_model.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scores = 2 * num_tokens**2 * config.num_attention_heads * head_width
    return num_tokens * linear_weights(language_model) + config.num_hidden_layers * scores
