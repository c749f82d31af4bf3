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

"""From a budget to the ratio of every layer: so many times fewer operations, or so many tokens left."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..configuration.fields import MIN_RATIO
from ..merging import KeepRatio, MergeSpec
from .operations import EncoderShape


#: Ratios have four decimals: summaries and cards can show them, and nothing is lost by it.
_STEP = 10_000
#: Of the interval in which the strength lies: it is then known to less than a step of a ratio.
_HALVINGS = 24


@dataclass(frozen=True)
class Budget:
    """What is asked of an encoder; exactly one of the two.

    Attributes:
        flops_ratio (`float`, *optional*): so many times fewer operations than dense, the merging itself counted.
        num_tokens (`int`, *optional*): so many tokens left after the last layer that is read, without special ones.
    """

    flops_ratio: float | None = None
    num_tokens: int | None = None

    def is_kept(self, shape: EncoderShape, specs: Sequence[MergeSpec], last: int) -> bool:
        """Whether `specs` take no more than this. `last`: the number of layers whose merges are read."""
        if self.num_tokens is not None:
            return tokens_left(shape, specs, last) <= self.num_tokens
        return flops_ratio(shape, specs) >= self.flops_ratio

    def __str__(self) -> str:
        name = "flops_ratio" if self.num_tokens is None else "num_tokens"
        return f"{name}={getattr(self, name):g}"


def flops_ratio(shape: EncoderShape, specs: Sequence[MergeSpec]) -> float:
    """How many times fewer operations the merged encoder has, as `pitome_summary` counts."""
    counts = [layer for layer in shape.count(specs) if layer.runs]
    return sum(layer.dense for layer in counts) / sum(layer.merged + layer.merge_step for layer in counts)


def tokens_left(shape: EncoderShape, specs: Sequence[MergeSpec], num_layers: int) -> int:
    """Tokens after `num_layers` layers, special ones not counted."""
    *_, last = [layer for _, layer in zip(range(num_layers), shape.count(specs))]
    return last.tokens_out - shape.num_special


@functools.lru_cache(maxsize=256)  # whoever changes other settings of a model asks for the same ones over and over
def fit(
    shape: EncoderShape,
    specs: tuple[MergeSpec, ...],
    profile: Callable[[float, float], float],
    budget: Budget,
    num_read: int,
) -> tuple[MergeSpec, ...]:
    """[`fit_path`] along a profile: see [`~methods.Profile`]."""
    count = len(merging_layers(specs, num_read))
    places = [place / count for place in range(1, count + 1)]
    return fit_path(shape, specs, lambda strength: [profile(place, strength) for place in places], budget, num_read)


def fit_path(
    shape: EncoderShape,
    specs: tuple[MergeSpec, ...],
    path: Callable[[float], Sequence[float]],
    budget: Budget,
    num_read: int,
) -> tuple[MergeSpec, ...]:
    """The specs with the ratios that merge the least within `budget`, on the way that `path` describes.

    Args:
        specs (`tuple[MergeSpec, ...]`): the layers' settings; those of ratio 1 stay dense.
        path (`Callable[[float], Sequence[float]]`):
            From a strength between 0 and 1 to the fraction of its tokens that each merging layer removes. What is
            above one half counts as one half; no fraction falls when the strength grows.
        num_read (`int`): the merges of so many layers are read; the others stay dense, too.

    Raises:
        ValueError: if the budget is out of reach.
    """
    merging = merging_layers(specs, num_read)
    dense = tuple(_with_ratio(spec, 1.0) for spec in specs)

    def at(strength: float) -> tuple[MergeSpec, ...]:
        changed = list(dense)
        for index, removed in zip(merging, path(strength)):
            ratio = math.floor((1 - min(removed, 1 - MIN_RATIO)) * _STEP) / _STEP
            changed[index] = _with_ratio(specs[index], ratio)
        return tuple(changed)

    if budget.num_tokens is not None and budget.num_tokens > shape.num_tokens - shape.num_special:
        raise ValueError(f"{budget}: only {shape.num_tokens - shape.num_special} tokens enter. Ask for fewer.")
    if budget.is_kept(shape, dense, num_read):
        return dense
    low, high = 0.0, 1.0
    if not budget.is_kept(shape, at(high), num_read):
        raise ValueError(_out_of_reach(shape, at(high), budget, num_read))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if budget.is_kept(shape, at(middle), num_read) else (middle, high)
    found = at(high)
    if budget.num_tokens is None or any(spec.ratio.multiple_of > 1 for spec in specs):
        return found  # with a multiple there are no single tokens to spare
    return _spare(shape, found, merging, budget.num_tokens - tokens_left(shape, found, num_read))


def merging_layers(specs: Sequence[MergeSpec], num_read: int) -> list[int]:
    """The layers that merge, of those that are read."""
    return [index for index, spec in enumerate(specs[:num_read]) if not spec.ratio.is_dense]


def _with_ratio(spec: MergeSpec, ratio: float) -> MergeSpec:
    return replace(spec, ratio=KeepRatio.from_float(ratio, spec.ratio.min_tokens, spec.ratio.multiple_of))


def _spare(
    shape: EncoderShape, specs: tuple[MergeSpec, ...], merging: list[int], num_tokens: int
) -> tuple[MergeSpec, ...]:
    """`specs` that remove `num_tokens` fewer, in the last layers that merge."""
    counts, changed = list(shape.count(specs)), list(specs)
    for index in reversed(merging):
        mergeable = counts[index].tokens_in - shape.num_special
        removed = mergeable - (counts[index].tokens_out - shape.num_special)
        spared = min(num_tokens, removed)
        if spared:
            # Half a token more: whole numbers come out whatever is rounded.
            fewer = (removed - spared + 0.5) / mergeable if removed > spared else 0.0
            changed[index] = _with_ratio(specs[index], 1 - fewer)
        num_tokens -= spared
    return tuple(changed)


def _out_of_reach(shape: EncoderShape, specs: Sequence[MergeSpec], budget: Budget, num_read: int) -> str:
    most = (
        f"go down to {tokens_left(shape, specs, num_read)} of {shape.num_tokens - shape.num_special}"
        if budget.flops_ratio is None
        else f"are up to {math.floor(100 * flops_ratio(shape, specs)) / 100:g} times fewer"
    )
    what, less = ("tokens", "more tokens") if budget.flops_ratio is None else ("operations", "a lower flops_ratio")
    floors = sorted({spec.ratio.min_tokens for spec in specs} - {0})
    limit = f", but for min_tokens={floors[-1]}" if floors else ""
    return (
        f"{budget} is out of reach: with the layers that merge here, at {shape.num_tokens} tokens, {what} {most} "
        f"(half of the tokens gone in each of these layers{limit}). Ask for {less}, or let more layers merge."
    )
