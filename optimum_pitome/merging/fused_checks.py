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

"""What the kernels are compared with on a device before they run there: PyTorch's own operations, on small inputs.
Where nothing is said of these, they have everything: masks, sizes, weights.

Most inputs are made of numbers that no order of adding rounds, with many exact ties; on these, plans have to be equal.
On the others, energies differ in the last bits, which decide between tokens that are as good as equal.
"""

from __future__ import annotations

import torch

from ..kernels import choice
from ..methods import ALGORITHMS
from .algorithms import match_pitome
from .attention import attention_over_heads
from .combine import keep_norm
from .counts import KeepRatio
from .launches import launch_class_attention, launch_match, launch_merge
from .masks import TokenMasks, weights_of_means
from .spec import MergeSpec


#: Samples and tokens: several blocks of every kernel, the last one not full.
_BATCH, _TOKENS = 2, 75


def exact_features(dim: int, generator: torch.Generator) -> torch.Tensor:
    """Vectors `(B, 2, N, dim)` whose means over the heads have a power of two as their length, and cosines that no
    order of adding rounds: as many ones and minus ones as the largest power of four that `dim` has room for."""
    width = 1
    while 4 * width <= min(dim, 256):
        width *= 4
    signs = torch.randint(0, 2, (_BATCH, _TOKENS, width), generator=generator) * 2.0 - 1.0
    mean = torch.zeros(_BATCH, _TOKENS, dim)
    mean[..., dim - width :] = signs
    apart = torch.randint(-2, 3, mean.shape, generator=generator).float()
    return torch.stack([mean + apart, mean - apart], dim=1)


def compare_match(device, energy, dtype="float32", dim=64, weighted=True, valid=True, special=True, protected=None):
    """Raises where the kernels and the functions of [`match_tokens`] give other plans."""
    generator = torch.Generator().manual_seed(0)
    protected = energy != "tome" if protected is None else protected
    method = {"algorithm": "tome"} if energy == "tome" else {"energy": energy}
    spec = MergeSpec(KeepRatio.from_float(0.7), **method, margin=0.3, importance=0.5 if weighted else 0.0)
    lengths = torch.tensor([[_TOKENS], [_TOKENS - 22]])
    masks = {
        "valid": torch.arange(_TOKENS) < lengths if valid else None,
        "special": torch.rand(_BATCH, _TOKENS, generator=generator) < 0.1 if special else None,
        "protected": torch.rand(_BATCH, _TOKENS, generator=generator) < 0.2 if protected else None,
    }
    masks = {name: None if mask is None else mask.to(device) for name, mask in masks.items()}
    limit = int(masks["special"].sum(dim=1).max()) if special else 0
    random = torch.randn(_BATCH, 2, _TOKENS, dim, generator=generator)
    attention = torch.rand(_BATCH, 4, _TOKENS, generator=generator)
    # Where all get the same attention, every weight is 1.
    cases = [(exact_features(dim, generator), torch.full_like(attention, 0.25), 1.0), (random, attention, 0.9)]
    for features, paid, share in cases[0 if energy in ("nearest", "tome") else 1 :]:
        features = features.to(device, getattr(torch, dtype))
        paid = paid.to(device) if weighted else None
        mean = None if paid is None else paid.mean(dim=1)
        of_tokens = TokenMasks(1, **masks, max_special=limit, attention=mean)
        expected = ALGORITHMS[spec.algorithm].match(features.mean(dim=1), spec, of_tokens)
        kept, pairs = expected.num_kept, expected.source.shape[1]
        numbers = *vars(spec.ratio).values(), energy, spec.margin, spec.alpha, spec.importance / 2
        rows, kept, *_, source_mask, kept_valid = launch_match(
            features, paid, *masks.values(), 1, pairs, kept, *numbers, (0, 0)
        )
        same = (rows == expected.rows).float().mean().item()
        require(same >= share, f"{same:.1%} of the tokens go where they should")
        if share == 1.0:
            require(torch.equal(kept, expected.kept), "other tokens are kept")
        if any((valid, special, protected)):
            require(torch.equal(source_mask, expected.source_mask), "samples merge other numbers of tokens")
            require(expected.valid is None or torch.equal(kept_valid, expected.valid), "other slots are filled")


def compare_merge(
    device,
    weighs="attention",
    dtype="float32",
    dim=70,
    masked=True,
    sized=True,
    moved=True,
    special=True,
    protected=True,
):
    """Raises where the kernel and [`MergePlan`] merge otherwise."""
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randn(_BATCH, _TOKENS, dim, generator=generator).to(device, getattr(torch, dtype))
    valid = (torch.arange(_TOKENS) < torch.tensor([[_TOKENS], [_TOKENS - 22]])).to(device) if masked else None
    plan = match_pitome(hidden_states, MergeSpec(KeepRatio.from_float(0.7)), TokenMasks(1, valid))
    real = torch.ones_like(plan.rows) if valid is None else valid
    sizes = torch.randint(1, 9, plan.rows.shape, generator=generator).to(device) * real if sized else None
    sizes = None if sizes is None else sizes.float()
    original = torch.randint(0, plan.rows.numel(), (_BATCH, 300), generator=generator).to(device) if moved else None
    marks = [(torch.rand(plan.rows.shape, generator=generator) < 0.3).to(device) for _ in range(2)]
    marks = [mark if given else None for mark, given in zip(marks, (special, protected))]
    pairs = plan.kept, plan.source, plan.target, plan.source_mask, plan.valid
    attention = torch.rand(_BATCH, 4, _TOKENS, generator=generator).to(device) if weighs == "attention" else None
    rest = original, *marks, attention, weighs == "sizes"
    arguments = hidden_states, sizes, plan.rows, plan.counted, *pairs, *rest
    found = launch_merge(*arguments)
    totals = plan.merge_sizes(torch.ones_like(plan.rows, dtype=torch.float32) if sizes is None else sizes)
    weights = weights_of_means(attention, sizes if weighs == "sizes" else None, totals)
    merged, log_sizes = plan.merge(hidden_states, *weights), totals.log()
    if masked:
        log_sizes = log_sizes.masked_fill(~plan.valid, torch.finfo(hidden_states.dtype).min)
    # Half precision may round a sum the other way; its steps are of this size.
    step = 4 * torch.finfo(hidden_states.dtype).eps
    torch.testing.assert_close(found[0], merged, atol=step, rtol=step)
    if choice.has_loops(torch.device(device)):  # on GPUs, PyTorch does this
        longer, *_ = launch_merge(*arguments, 0.5)
        torch.testing.assert_close(longer, keep_norm(plan, hidden_states, merged, 0.5, *weights), atol=step, rtol=step)
    torch.testing.assert_close(found[1], totals, atol=0, rtol=0)
    torch.testing.assert_close(found[2], log_sizes.to(hidden_states.dtype), atol=step, rtol=step)
    require(not moved or torch.equal(found[3], plan.rows.flatten()[original]), "original tokens go elsewhere")
    for mark, after in zip(marks, found[4:]):
        require(mark is None or torch.equal(after, mark.gather(1, plan.kept)), "marks go elsewhere")


def compare_class_attention(device, dtype="float32", dim=48, bias="float32", valid=True):
    """Raises where the kernel and `attention_over_heads` give other numbers."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(_BATCH, 4, _TOKENS, dim, generator=generator) for _ in range(2))
    query, key = query.to(device, getattr(torch, dtype)), key.to(device, getattr(torch, dtype))
    if bias == "allowed":
        added = (torch.rand(_BATCH, 1, 1, _TOKENS, generator=generator) < 0.7).to(device)
    else:
        added = torch.randn(_BATCH, 1, 1, _TOKENS, generator=generator).to(device)
        added = None if bias == "none" else added.to(getattr(torch, bias))
    real = (torch.arange(_TOKENS) >= torch.tensor([[0], [9]])).to(device) if valid else None
    found = launch_class_attention(query, key, added, real, dim**-0.5).mean(dim=1)
    expected = attention_over_heads(query, key, added, real, dim**-0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(f"compared with PyTorch, {otherwise}")


choice.COMPARISONS.update(match=compare_match, merge=compare_merge, class_attention=compare_class_attention)
