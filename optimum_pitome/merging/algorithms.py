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

"""Matching algorithms: which tokens of a layer merge into which. Each is the function of an entry of
`ALGORITHMS`.

Pure tensor functions: nothing here knows transformers, reads a value back from the device, or lets a shape depend on
data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..methods import ALGORITHMS
from .candidates import Candidates, rank_by_energy
from .energy import best_in_blocks, product
from .exporting import LAST
from .masks import TokenMasks
from .plan import MergePlan
from .spec import MergeSpec


def _implements(name: str) -> Callable[[Callable], Callable]:
    def decorate(function: Callable) -> Callable:
        ALGORITHMS[name].match = function
        return function

    return decorate


@_implements("pitome")
def match_pitome(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """PiToMe (paper, section 3.2): of the `2k` tokens of highest energy, the even ranks each join the odd rank they
    resemble most; all others are protected."""
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    energy, similarity = candidates.scores(spec)
    ranked = rank_by_energy(energy, candidates.mergeable, 2 * candidates.num_pairs)
    source, pool = ranked[:, 0::2], ranked[:, 1::2]
    if candidates.counted is not None:
        # Where many are protected there are fewer than 2k candidates: what lacks are odd ranks.
        pair = candidates.steps(candidates.num_pairs)
        source = ranked.gather(1, torch.minimum(2 * pair, pair + candidates.room()))
    source_mask = candidates.pair_mask()
    _, target = candidates.best(source, pool, _refused(candidates, source_mask), similarity)
    return candidates.plan(source, pool.gather(1, target), source_mask)


@_implements("pitome_halves")
def match_pitome_halves(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """PiToMe as the released code has it for text: of the `2k` tokens of highest energy, each of the upper half joins
    the one of the lower half that it resembles most."""
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    energy, similarity = candidates.scores(spec)
    return _join_halves(candidates, similarity, rank_by_energy(energy, candidates.mergeable, 2 * candidates.num_pairs))


@_implements("pitome_random_split")
def match_pitome_random_split(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """PiToMe with a random split (paper, ablations): of the `2k` tokens of highest energy, `k` that chance takes each
    join the one of the other `k` that they resemble most. What chance is, [`match_random`] says."""
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    energy, similarity = candidates.scores(spec)
    ranked = rank_by_energy(energy, candidates.mergeable, 2 * candidates.num_pairs)
    key = _random_key(candidates).gather(1, ranked)
    if candidates.mergeable is not None:
        # Only a sample's own 2k take part.
        slot = candidates.steps(key.shape[1])
        key = key.masked_fill(slot >= 2 * candidates.pairs_of_sample(), LAST)
    return _join_halves(candidates, similarity, ranked.gather(1, key.topk(key.shape[1], dim=1).indices))


@_implements("pitome_unprotected")
def match_pitome_unprotected(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """Energy-ordered matching, "PiToMe without protection": all tokens ranked by energy, even ranks against odd ranks,
    and the `k` best-matched pairs merge."""
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    num_mergeable = candidates.features.shape[1]
    energy, _ = candidates.scores(spec)
    return _merge_best_pairs(candidates, rank_by_energy(energy, candidates.mergeable, num_mergeable))


@_implements("tome")
def match_tome(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """ToMe (2210.09461): even positions against odd positions, and the `k` best-matched pairs merge.

    Positions count the prefix and, after it, the sample's mergeable tokens, so padding does not shift the parity.
    """
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    first = masks.num_prefix_tokens % 2
    if candidates.mergeable is None and candidates.constants is not None:
        return _merge_alternate(candidates, first)
    order = torch.argsort(candidates.position_key(), dim=1)
    return _merge_best_pairs(candidates, order, even_first=first == 0)


# ToFu differs from it in what becomes of a pair (`combine.py`).
_implements("tofu")(match_tome)


@_implements("random")
def match_random(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks) -> MergePlan | None:
    """Drops `k` tokens without looking at them: the floor that every other algorithm must clear.

    Which ones is a hash of a token's position among the sample's mergeable tokens, of their number, and of the setting
    `random_seed`: the same in every run, thread, batch and padding, different from layer to layer, with no random
    state to keep. What is dropped
    leaves the sizes, too. [`MergePlan.unmerge`] gives a dropped token the vector of the mergeable token that stays
    nearest to it in the sequence.
    """
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    num_mergeable = candidates.features.shape[1]
    order = _random_key(candidates).topk(num_mergeable, dim=1).indices
    source, stays = order[:, : candidates.num_pairs], order
    # Twice the distance, plus one after the token: no ties, so no argmin that depends on the device.
    offset = stays.unsqueeze(1) - source.unsqueeze(2)
    distance = 2 * offset.abs() + (offset > 0)
    slot = candidates.steps(num_mergeable)
    gone = slot < candidates.pairs_of_sample()
    if candidates.mergeable is not None:
        gone = gone | (slot >= candidates.count())
    nearest = distance.masked_fill(gone.unsqueeze(1), torch.iinfo(torch.int64).max).argmin(dim=-1)
    return candidates.plan(source, stays.gather(1, nearest), candidates.pair_mask())


def _join_halves(candidates: Candidates, similarity: torch.Tensor | None, ranked: torch.Tensor) -> MergePlan:
    """Of a sample's own `2k` first tokens of `ranked` `(B, 2k)`, each of the first half joins the one of the second
    half that it resembles most."""
    num_pairs = candidates.num_pairs
    source, pool = ranked[:, :num_pairs], ranked[:, num_pairs:]
    source_mask = candidates.pair_mask()
    if source_mask is not None:
        # The halves meet at each sample's own k.
        lower = candidates.pairs_of_sample() + candidates.steps(num_pairs)
        pool = ranked.gather(1, lower)
    _, target = candidates.best(source, pool, _refused(candidates, source_mask), similarity)
    return candidates.plan(source, pool.gather(1, target), source_mask)


def _refused(candidates: Candidates, source_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Which of the `k` places in the pool hold no token that may merge, `(B, k)`; `None` if all do."""
    if source_mask is None:
        return None
    if candidates.counted is not None:
        source_mask = source_mask & (candidates.steps(candidates.num_pairs) < candidates.room())
    return ~source_mask


def _merge_alternate(candidates: Candidates, first: int) -> MergePlan:
    """[`_merge_best_pairs`] of all tokens in their own order, in which those at `first`, `first + 2`, … propose."""
    left, right = candidates.factors()
    left, right = left[:, first::2], right[:, 1 - first :: 2]
    best, target = best_in_blocks(left, right, None) if candidates.are_many else product(left, right).max(dim=-1)
    chosen = rank_by_energy(best, None, candidates.num_pairs)
    # From places among every second token to those among all.
    steps = candidates.steps(2)
    source = torch.add(steps[first], chosen, alpha=2)
    target = torch.add(steps[1 - first], target.gather(1, chosen), alpha=2)
    return candidates.plan(source, target, None)


def _merge_best_pairs(candidates: Candidates, order: torch.Tensor, even_first: bool = True) -> MergePlan:
    """Bipartite matching: every second token of `order` proposes the most similar of the others; the `k` best merge.

    Args:
        order (`torch.LongTensor` of shape `(B, M)`): all tokens, those that may not merge last.
        even_first (`bool`): whether entries 0, 2, … propose, or 1, 3, ….
    """
    num_tokens = order.shape[1]
    # Not slices with a step: export would tie the length to the parity of its example, for their strides.
    even, odd = (torch.arange(start, num_tokens, 2, device=order.device) for start in (0, 1))
    proposing, accepting = (even, odd) if even_first else (odd, even)
    mergeable, refused = None, None
    if candidates.mergeable is not None:
        count = candidates.count()
        refused = accepting >= count
    if candidates.counted is not None:
        # Where many are protected, every second one of the others is less than k: what lacks is taken from the rest.
        room = candidates.room()
        few = room < candidates.pairs_of_sample()
        place = torch.arange(proposing.shape[0], device=order.device)
        proposing = torch.where(few, torch.minimum(proposing, place + room), proposing)
        refused = torch.where(few, accepting >= 2 * room, refused)
    source = order.gather(1, proposing.expand(order.shape[0], -1))
    pool = order.index_select(1, accepting)
    if refused is not None:
        mergeable = proposing < count
    best, target = candidates.best(source, pool, refused)
    chosen = rank_by_energy(best, mergeable, candidates.num_pairs)
    target = pool.gather(1, target).gather(1, chosen)
    return candidates.plan(source.gather(1, chosen), target, candidates.pair_mask())


def _random_key(candidates: Candidates) -> torch.Tensor:
    """Sorts the sample's tokens that may merge at random, `(B, M)` int64, those that may not last.

    Raises:
        RuntimeError: under an exporter that computes it wrongly.
    """
    spec = candidates.spec
    if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            f"The older ONNX exporter (dynamo=False) computes the hash of algorithm={spec.algorithm!r} wrongly. Use "
            "torch.onnx.export(..., dynamo=True), or another algorithm."
        )
    rank = candidates.rank()
    key = _hash_positions(rank, candidates.count(), spec.random_seed) * rank.shape[1] + rank
    return key if candidates.mergeable is None else key.masked_fill(~candidates.mergeable, LAST)


def _hash_positions(position: torch.Tensor, salt: torch.Tensor, seed: int) -> torch.Tensor:
    """Pseudo-random integers below 2**31 from integers; products stay inside int64, and every operation exports."""
    modulus = 2**31 - 1
    value = (position * 48271 + salt * 69621 + 1013904223 + seed * 982451653 % modulus) % modulus
    for _ in range(3):
        value = (value * value + 12345) % modulus
        value = (value * 16807 + position * 630360016 + salt * 742938285) % modulus
    return value
