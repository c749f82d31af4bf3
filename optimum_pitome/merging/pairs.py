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

"""From pairs of tokens to the plan that merges them."""

from __future__ import annotations

import torch

from .constants import Constants, is_fused, is_traced
from .exporting import runtime, slots_without_masks
from .plan import MergePlan
from .rows import kept_first, rows_of


def plan_from_pairs(
    source: torch.Tensor,
    target: torch.Tensor,
    num_tokens: int,
    num_kept: int,
    source_mask: torch.Tensor | None = None,
    valid: torch.Tensor | None = None,
    dropped: torch.Tensor | None = None,
    kind: type[MergePlan] = MergePlan,
    constants: Constants | None = None,
    start: int = 0,
) -> MergePlan:
    """Builds the plan that merges `source[b, j]` into `target[b, j]` and keeps the rest in its order.

    Args:
        source, target (`torch.LongTensor` of shape `(B, k)`): tokens, counted from `start`; no target is a source.
        num_tokens (`int`): N.
        num_kept (`int`): n, the static number of output slots. At least the real tokens that survive in any sample.
        source_mask (`torch.BoolTensor` of shape `(B, k)`, *optional*): which pairs are real.
        valid (`torch.BoolTensor` of shape `(B, N)`, *optional*): which input tokens are real (not padding).
        dropped (`torch.BoolTensor` of shape `(B, k)`, *optional*):
            Sources that go without leaving anything: only `assignment` names their target. `None`: none.
        kind (`type[MergePlan]`): the class of the plan.
        constants ([`Constants`], *optional*): of the forward; `None` in a graph.
        start (`int`, *optional*, defaults to 0): tokens at the front that neither join nor are joined.
    """
    if runtime() is not None and source_mask is None and valid is None and dropped is None:
        slots = slots_without_masks(source, target, num_tokens, start)
        return kind(source=source, target=target, assignment=slots, num_kept=num_kept, start=start)
    if constants is None:
        if is_traced():
            source, target, start = source + start, target + start, 0
        else:
            constants = Constants.of(source.new_empty((source.shape[0], num_tokens)))
    settings = {"num_kept": num_kept, "constants": constants, "start": start}
    if source_mask is None and valid is None:
        rows = _rows_without_masks(source, target, num_tokens, num_kept, constants, start)
        if dropped is not None:
            settings["source_mask"] = ~dropped
            counted = torch.ones_like(rows, dtype=torch.bool)
            settings["counted"] = counted.scatter(1, source + start, ~dropped.expand_as(source))
        return kind(source=source, target=target, rows=rows, **settings)
    return _plan_with_masks(source, target, num_tokens, source_mask, valid, dropped, kind, settings)


def _rows_without_masks(
    source: torch.Tensor,
    target: torch.Tensor,
    num_tokens: int,
    num_kept: int,
    constants: Constants | None,
    start: int,
) -> torch.Tensor:
    """[`MergePlan.rows`] where every sample keeps `num_kept` tokens."""
    shape = (source.shape[0], num_tokens)
    if constants is None and is_fused():
        steps = torch.arange(num_tokens, device=source.device)
        # Each token moves up by the number of sources before it.
        rows = rows_of(steps - (source.unsqueeze(1) < steps.unsqueeze(1)).sum(dim=2), num_kept)
        return rows.scatter(1, source, rows.gather(1, target))
    if constants is None:
        stays = torch.ones(shape, dtype=torch.int64, device=source.device).scatter(1, source, 0)
        rows = rows_of(stays.cumsum(dim=1) - 1, num_kept)
        return rows.scatter(1, source, rows.gather(1, target))
    # One count through the whole batch gives rows of the flattened result. It starts from 0 at a token that stays.
    if start > 0:
        advance = constants.advance(shape[0] * shape[1]).view(shape)
        advance[:, start:].scatter_(1, source, 0)
    else:
        advance = constants.steps[1:2].expand(shape).scatter(1, source, 0)
    rows = advance.view(-1).cumsum(dim=0).view(shape)
    rows = rows if start > 0 else rows.sub_(1)
    after = rows[:, start:]
    after.scatter_(1, source, after.gather(1, target))
    return rows


def _plan_with_masks(source, target, num_tokens, source_mask, valid, dropped, kind, settings) -> MergePlan:
    """As [`plan_from_pairs`], where samples keep different numbers of tokens."""
    num_kept, constants, start = settings["num_kept"], settings["constants"], settings["start"]
    batch_size, device = source.shape[0], source.device
    if source_mask is None:
        source_mask = torch.ones_like(source, dtype=torch.bool)
    real = torch.ones((1, 1), dtype=torch.bool, device=device) if valid is None else valid
    real = real.expand(batch_size, num_tokens)
    counted = None if valid is None else real
    if dropped is not None:
        # A pair that is not real may name a token that stays.
        gone, place = dropped & source_mask, source + start
        counted = real.scatter(1, place, real.gather(1, place) & ~gone)
    if constants is None:  # writing to views does not export
        stays = real.long().scatter_add(1, source, -source_mask.long())
        slots = stays.cumsum(dim=1)  # from 1
        joined = torch.where(source_mask, slots.gather(1, target), slots.gather(1, source))
        steps = torch.arange(num_tokens, device=device)
        kept_valid = steps[:num_kept] < slots[:, -1:]
        slots = slots.scatter(1, source, joined)
    else:
        stays = real.long().contiguous()
        stays[:, start:].scatter_add_(1, source, constants.minus_one * source_mask)
        slots = stays.cumsum(dim=1)
        steps, after = constants.steps, slots[:, start:]
        kept_valid = steps[:num_kept] < slots[:, -1:]
        after.scatter_(1, source, after.gather(1, torch.where(source_mask, target, source)))
    # Pads read the first real token (CLS): heads that look at position 0 find it there under padding on the left.
    slots = torch.where(real, slots, steps[1])
    return kind(
        source=source,
        target=target,
        **({"rows": rows_of(slots, num_kept, constants) - 1} if runtime() is None else {"assignment": slots - 1}),
        source_mask=source_mask if dropped is None else source_mask & ~dropped,
        valid=None if valid is None else kept_valid,
        counted=counted,
        kept=kept_first(stays, num_kept),
        **settings,
    )
