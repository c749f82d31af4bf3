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

"""What a layer, a merge step and the prefill of a language model cost, from the shapes of their weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..merging import MergeSpec
from ..methods import ALGORITHMS
from ..modeling.architecture import Architecture


def linear_weights(module: nn.Module) -> int:
    """How many weights each token meets in the linear layers of `module`, whatever their classes.

    Dynamically quantised layers, GPT-2's `Conv1D` and the like are no `nn.Linear`. Around a layer that an adapter of
    PEFT wraps, the layer itself counts once, and the adapters that are active and not merged into it.
    """
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.Module):
        resting = getattr(module, "merged", False) or getattr(module, "disable_adapters", False)
        active = [] if resting else getattr(module, "active_adapters", [])
        adapters = [kind for kind in module.children() if isinstance(kind, nn.ModuleDict)]
        running = [kind[name] for kind in adapters for name in active if name in kind]
        return linear_weights(base) + sum(map(linear_weights, running))
    # What wraps a linear layer often repeats its sizes: only the innermost module counts.
    return sum(map(linear_weights, module.children())) or _own_weights(module)


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
    def of(cls, layer: nn.Module, architecture: Architecture, config) -> Widths:
        # `attention.self` is the module that attends; its output projection lies beside it, under `attention`.
        attention = linear_weights(layer.get_submodule(architecture.attention.split(".")[0]))
        mlp = linear_weights(layer) - attention
        return cls(attention, mlp, config.hidden_size, config.num_attention_heads)

    def operations(self, tokens_in: int, tokens_out: int) -> int:
        # QK^T and the weighted sum of the values: N² per feature each.
        return tokens_in * self.attention + 2 * tokens_in**2 * self.hidden + tokens_out * self.mlp


def merge_step(spec: MergeSpec, mergeable: int, removed: int, widths: Widths) -> int:
    """Operations of one merge of `removed` out of `mergeable` tokens, special tokens aside."""
    dim = widths.hidden if spec.metric == "hidden_states" else widths.hidden // widths.heads
    algorithm = ALGORITHMS[spec.algorithm]
    combining = _combining(spec.combine, mergeable, removed, widths.hidden)
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
    mean = mergeable * width
    return mean + (mergeable + 2 * kept) * width if combine == "mlerp" else mean  # norms before and after, scaling


def prefill(language_model: nn.Module, num_tokens: int) -> int:
    """Operations of a language model on a prompt, without its head, which reads the last token only. Attention counts
    as in an encoder: N² scores per head, though half of them are masked."""
    config = language_model.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scores = 2 * num_tokens**2 * config.num_attention_heads * head_width
    return num_tokens * linear_weights(language_model) + config.num_hidden_layers * scores
