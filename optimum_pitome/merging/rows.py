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

"""Rows of a batch of tokens: taken from it, and summed into it."""

from __future__ import annotations

import torch

from .constants import Constants, is_traced
from .exporting import runtime
from .opaque import empty, operator


def scatter_tokens(tokens: torch.Tensor, index: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """The sums of the `tokens` `(B, n, ...)` that go to each place `index` `(B, n)`: `(B, num_tokens, ...)`."""
    sums = tokens.new_zeros((tokens.shape[0], num_tokens, *tokens.shape[2:]))
    return sums.scatter_add_(1, index.view(*index.shape, *[1] * (tokens.dim() - 2)).expand_as(tokens), tokens)


@operator(
    "gather_tokens",
    fake=lambda tokens, index: empty(tokens, (*index.shape, *tokens.shape[2:])),
    save=lambda tokens, index: (index, tokens.shape[1]),
    gradient=operator(
        "gather_tokens_backward",
        fake=lambda gradient, index, num_tokens: empty(gradient, (gradient.shape[0], num_tokens, *gradient.shape[2:])),
    )(scatter_tokens),
)
def gather_tokens(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of `tokens` `(batch_size, num_tokens, ...)` at `index` `(batch_size, n)`, as `(batch_size, n, ...)`.

    One flat `index_select` copies whole rows; `torch.gather` with an expanded index is ten times slower on a CPU.
    """
    if tokens.dim() == 2:
        return tokens.gather(1, index)
    return take(tokens, rows_of(index, tokens.shape[1]))


def take(tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Takes `rows` `(B, n)` of the flattened `tokens` `(B, num_tokens, ...)`, which gives `(B, n, ...)`."""
    return tokens.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, *tokens.shape[2:])


def rows_of(index: torch.Tensor, num_tokens: int, constants: Constants | None = None) -> torch.Tensor:
    """From places `(B, n)` among `num_tokens` of a sample to rows of the flattened batch."""
    if constants is None:
        samples = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    else:
        samples = constants.samples(index.shape[0])
    return torch.add(index, samples, alpha=num_tokens)


def composed(plan, rows: torch.Tensor | None, slots: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    """Where original tokens go by a `plan` of tokens that are `rows` `(B, N)` of the flattened batch: `rows` of its
    result. In a graph for another runtime also `slots`, their places in each sample, which take fewer nodes."""
    if runtime() is not None:
        slots = plan.assignment if slots is None else plan.assignment.gather(1, slots)
        return {"rows": rows_of(slots, plan.num_kept), "slots": slots}
    return {"rows": plan.rows if rows is None else _rows_through(plan.rows, rows), "slots": None}


@operator("rows_through", fake=lambda later, rows: empty(rows, rows.shape))
def _rows_through(later: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Where original tokens go that are `rows` `(B, N)` of a flattened batch whose tokens go to `later` `(B, n)`."""
    return later.flatten()[rows]


def sum_rows(
    tokens: torch.Tensor, rows: torch.Tensor, num_kept: int, zero: torch.Tensor | None = None
) -> torch.Tensor:
    """The sums of the `tokens` `(B, N, ...)` that go to each of the `rows` `(B, N)` of the flattened result:
    `(B, num_kept, ...)`. `zero` is the number, `(1,)`, where it lies on the device already, and `None` in a graph."""
    batch_size, shape = tokens.shape[0], tokens.shape[2:]
    if zero is None and torch.jit.is_tracing():
        # The older ONNX exporter loses the addition of rows; this one takes ten times as long on a CPU.
        samples = torch.arange(batch_size, device=rows.device).unsqueeze(1)
        return scatter_tokens(tokens, rows - samples * num_kept, num_kept)
    if is_traced():
        # Inductor (torch 2.13) adds to a single zero that is expanded wrongly, or not at all.
        zeros = tokens.new_zeros((batch_size * num_kept, *shape))
    else:
        if zero is None or zero.dtype != tokens.dtype:
            zero = tokens.new_zeros(1)
        zeros = zero.expand(batch_size * num_kept, *shape)
    return zeros.index_add(0, rows.flatten(), tokens.flatten(0, 1)).view(batch_size, num_kept, *shape)


take_rows = operator(
    "take_rows",
    fake=lambda tokens, rows: empty(tokens, (*rows.shape, *tokens.shape[2:])),
    save=lambda tokens, rows: (rows, tokens.shape[1]),
    gradient=operator(
        "take_rows_backward",
        fake=lambda gradient, rows, num_tokens: empty(gradient, (gradient.shape[0], num_tokens, *gradient.shape[2:])),
        schema="(Tensor gradient, Tensor rows, SymInt num_tokens) -> Tensor",
    )(sum_rows),
)(take)


def take_pairs(mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Rows and columns `kept` `(B, n)` of `mask` `(B, heads, N, N)`, or columns of `(B, heads, 1, N)`."""
    mask = mask.expand(kept.shape[0], -1, -1, -1)
    if mask.shape[2] > 1:
        mask = mask.gather(2, kept[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    return mask.gather(3, kept[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))


def narrowed(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`values` in the dtype of `like`, where they are no convex combination of it: single features can be larger than
    any of `like`, and the range of float16 is small."""
    if like.dtype == torch.float16:
        values = values.clamp(min=torch.finfo(like.dtype).min, max=torch.finfo(like.dtype).max)
    return values.to(like.dtype)


def kept_first(stays: torch.Tensor, num_kept: int) -> torch.Tensor:
    """The first `num_kept` tokens `(B, num_kept)` when those that stay, 1 and not 0 in `(B, N)`, come before the rest,
    both in their order."""
    if not is_traced():
        return stays.sort(dim=1, descending=True, stable=True).indices[:, :num_kept]
    # Stable sorts do not export.
    rank, position = stays.cumsum(dim=1), torch.arange(stays.shape[1], device=stays.device)
    slots = torch.where(stays > 0, rank - 1, position - rank + rank[:, -1:])
    return torch.empty_like(stays).scatter(1, slots, position.expand_as(slots))[:, :num_kept]
