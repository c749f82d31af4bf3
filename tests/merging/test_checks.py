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

"""`check_algorithm` and `check_energy`: the built-in methods pass, and each kind of mistake is named."""

import pytest
import torch

from optimum_pitome import check_algorithm, check_energy, register_algorithm, register_energy
from optimum_pitome.merging import Candidates, TokenMasks, plan_from_pairs
from optimum_pitome.methods import ALGORITHMS, ENERGIES


@pytest.fixture(autouse=True)
def _tables_kept():
    before = dict(ALGORITHMS), dict(ENERGIES)
    yield
    for table, entries in zip((ALGORITHMS, ENERGIES), before):
        table.clear()
        table.update(entries)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_built_in_algorithms_pass(name):
    check_algorithm(name)


@pytest.mark.parametrize("name", ENERGIES)
def test_the_built_in_energies_pass(name):
    check_energy(name)


def into_last(order, candidates, num_pairs=None, mask=True):
    """The first k of `order` join the last token that may merge."""
    num_pairs = candidates.num_pairs if num_pairs is None else num_pairs
    mask = candidates.pair_mask() if mask else None
    source, last = order[:, :num_pairs], order.gather(1, (candidates.count() - 1).clamp(min=0))
    return candidates.plan(source, last.expand_as(source), None if mask is None else mask[:, :num_pairs])


def in_order(candidates):
    return torch.argsort(candidates.position_key(), dim=1)


def of_candidates(function):
    """An algorithm from what it does with its candidates."""

    def match(features, spec, masks):
        candidates = Candidates.read(features, spec, masks)
        return None if candidates is None else function(candidates)

    return match


def chain(candidates):
    order = in_order(candidates)
    num_pairs = candidates.num_pairs
    return candidates.plan(order[:, :num_pairs], order[:, 1 : num_pairs + 1], candidates.pair_mask())


def twice(candidates):
    order = in_order(candidates)
    source = order[:, :1].expand(-1, candidates.num_pairs)
    return candidates.plan(source, order[:, -candidates.num_pairs :], candidates.pair_mask())


def by_a_sum(candidates):
    """Which tokens come first depends on a sum over all of them, padding included."""
    order = in_order(candidates)
    shift = (candidates.features.sum(dim=(1, 2)) > 0).long().unsqueeze(1)
    count = candidates.count().clamp(min=1)
    rank = torch.arange(order.shape[1]).expand_as(order)
    return into_last(order.gather(1, torch.where(rank < count, (rank + shift) % count, rank)), candidates)


def by_the_batch(candidates):
    order = in_order(candidates)
    count = candidates.count().clamp(min=1)
    rank = torch.arange(order.shape[1]).expand_as(order)
    rank = torch.where(rank < count, (rank + len(order)) % count, rank)
    return into_last(order.gather(1, rank), candidates)


def by_chance(candidates):
    key = torch.rand(candidates.features.shape[:2])
    key = key if candidates.mergeable is None else key.masked_fill(~candidates.mergeable, 2.0)
    return into_last(key.argsort(dim=1), candidates)


def all_tokens(candidates):
    return into_last(torch.arange(candidates.features.shape[1]).expand(len(candidates.features), -1), candidates)


def protected_ones(features, spec, masks):
    masks = TokenMasks(masks.num_prefix_tokens, masks.valid, masks.special, masks.max_special)
    return of_candidates(lambda candidates: into_last(in_order(candidates), candidates))(features, spec, masks)


def the_prefix(features, spec, masks):
    candidates = Candidates.read(features, spec, masks)
    if candidates is None:
        return None
    order = torch.arange(features.shape[1]).expand(len(features), -1)[:, : 2 * candidates.num_pairs]
    num_kept = features.shape[1] - candidates.num_pairs
    return plan_from_pairs(order[:, 0::2], order[:, 1::2], features.shape[1], num_kept)


def in_place(features, spec, masks):
    features.mul_(2)
    return ALGORITHMS["tome"].match(features, spec, masks)


@pytest.mark.parametrize(
    "match, message",
    [
        (of_candidates(chain), r"merges tokens \[.*\] into some that are merged away themselves"),
        (of_candidates(twice), "merges a token twice"),
        (
            of_candidates(lambda c: into_last(in_order(c), c, c.num_pairs - 1)),
            r"has too few pairs: tokens \[23\] are gone",
        ),
        (of_candidates(lambda c: into_last(in_order(c), c, mask=False)), "padded.*removes 6 tokens.*: expected 4"),
        (of_candidates(all_tokens), "padded on the left.*may not merge"),
        (of_candidates(by_a_sum), "merges sample . otherwise without its padding"),
        (of_candidates(by_the_batch), "merges sample . otherwise when it is alone"),
        (of_candidates(by_chance), "gave two plans for the same input"),
        (protected_ones, "some of them protected.*merges protected tokens"),
        (the_prefix, "with a class token.*may not merge"),
        (in_place, "changed the features in place"),
        (lambda features, spec, masks: None, "merges nothing, where 6 tokens have to go"),
        (lambda features, spec, masks: (1, 2), "returned a tuple: expected a MergePlan"),
        (of_candidates(lambda candidates: 1 // 0), "raised ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_an_algorithm_is_named(match, message):
    register_algorithm("wrong")(match)
    with pytest.raises(AssertionError, match=f"^The algorithm 'wrong', given .*{message}"):
        check_algorithm("wrong")


@pytest.mark.parametrize(
    "score, message",
    [
        (lambda s, mergeable, *_: s.mean(dim=-1), "otherwise without the tokens that may not merge"),
        (lambda s, *more: ENERGIES["nearest"].score(s, *more).sub(2).sqrt(), "is NaN or infinite"),
        (lambda s, *more: ENERGIES["nearest"].score(s, *more) * (2.0 - len(s)), "otherwise when it is alone"),
        (lambda s, mergeable, *_: torch.rand(s.shape[:2]), "nothing on chance"),
        (lambda s, mergeable, *_: s, r"has the shape \(3, 24, 24\): expected one score per token, \(3, 24\)"),
        (lambda s, mergeable, *_: s.half().amax(dim=-1), "is torch.float16: expected torch.float32"),
        (lambda s, mergeable, *_: s.mean(dim=-1)[mergeable], "raised|has the shape"),
    ],
)
def test_what_is_wrong_with_an_energy_is_named(score, message):
    register_energy("wrong")(score)
    with pytest.raises(AssertionError, match=f"^The energy 'wrong', given .*{message}"):
        check_energy("wrong")


def test_an_offset_and_a_scale_do_not_matter():
    def scaled(similarity, mergeable, margin, alpha):
        return 2 * ENERGIES["nearest"].score(similarity, mergeable, margin, alpha) + len(similarity)

    register_energy("scaled")(scaled)
    check_energy("scaled")


def test_names_that_are_not_registered():
    with pytest.raises(ValueError, match="No algorithm 'mine' is registered. Known: 'pitome', "):
        check_algorithm("mine")
    with pytest.raises(ValueError, match="No energy 'mine' is registered. Known: 'paper', "):
        check_energy("mine")
