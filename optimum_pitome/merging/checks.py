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

"""[`check_algorithm`] and [`check_energy`]: whether a method of a user's keeps what the rest of the package relies on.

They run it on random and on degenerate inputs, and say in a sentence what does not hold. Nothing is checked while a
model runs: that would take longer than the matching, and bring values back from the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..methods import ALGORITHMS, ENERGIES
from . import Candidates, KeepRatio, MergePlan, MergeSpec, TokenMasks, match_tokens, pairwise_similarity
from .matching import Plan


#: What the tokens of a check are like.
_KINDS = ("random", "equal", "repeated", "zero", "float16", "bfloat16")
_WIDTH = 16


@dataclass(frozen=True)
class _Case:
    """One input of a check: features `(B, N, dim)`, their masks, and what a message calls them."""

    kind: str
    about: str
    features: torch.Tensor
    masks: TokenMasks
    ratio: float

    def take(self, rows: Any, columns: Any = slice(None)) -> _Case:
        """Some of the samples, and some of their tokens."""
        tensors = {name: value for name, value in vars(self.masks).items() if isinstance(value, torch.Tensor)}
        masks = replace(self.masks, **{name: value[rows, columns] for name, value in tensors.items()})
        return replace(self, features=self.features[rows, columns], masks=masks)


def check_algorithm(name: str) -> None:
    """Runs a registered matching algorithm on random and on degenerate inputs, and checks its plans: how many tokens
    they leave, that no token is merged twice or into one that is gone, that nothing special, protected or padded
    merges, that a sample alone and in a padded batch merges alike, and that the same input gives the same plan.

    Args:
        name (`str`): as it was registered.

    Raises:
        AssertionError: if something does not hold; the message says what, and for which input.
        ValueError: if no algorithm has this name.
    """
    _look_up(ALGORITHMS, "algorithm", name)
    for case in _cases():
        about = f"The algorithm {name!r}, given {case.about}"
        features = case.features.clone()
        plan = _run(name, case, about)
        _require(torch.equal(case.features, features), f"{about}, changed the features in place. Work on a copy.")
        _check_plan(plan, case, about)
        if plan is None:
            continue
        again = _run(name, case, about)
        same = again is not None and torch.equal(plan.assignment, again.assignment)
        _require(same, f"{about}, gave two plans for the same input. Randomness has to come from a token's position.")
        for index in range(len(features)) if case.kind == "random" else ():  # others have ties, up to rounding
            _check_sample(name, plan, case.take(slice(index, index + 1)), index, about)


def check_energy(name: str) -> None:
    """Runs a registered energy on random and on degenerate similarities: shape, dtype, no NaN, and that what may not
    merge, the batch and the padding do not change the energies of the other tokens.

    Args:
        name (`str`): as it was registered.

    Raises:
        AssertionError: if something does not hold; the message says what, and for which input.
        ValueError: if no energy has this name.
    """
    _look_up(ENERGIES, "energy", name)
    for case in _cases():
        candidates = Candidates.read(case.features, _spec("pitome", case), case.masks)
        if candidates is None:
            continue
        mergeable = candidates.mergeable
        similarity = pairwise_similarity(candidates.features)
        for margin, alpha in ((0.9, 1.0), (0.0, 0.5)):
            about = f"The energy {name!r}, given {case.about} (margin={margin}, alpha={alpha})"
            settings = margin, alpha, about
            energy = _score(name, similarity, mergeable, *settings)
            for index in range(len(similarity)):
                counts = slice(None) if mergeable is None else mergeable[index]
                found = energy[index][counts]
                if not len(found):
                    continue
                _require(found.isfinite().all(), f"{about}, is NaN or infinite for a token that may merge.")
                rows = slice(index, index + 1)
                alone = _score(name, similarity[rows], None if mergeable is None else mergeable[rows], *settings)
                _require(
                    _alike(found, alone[0][counts]),
                    f"{about}, ranks sample {index} otherwise when it is alone: no sample may depend on the others, "
                    "and nothing on chance.",
                )
                without = _score(name, similarity[rows][:, counts][:, :, counts], None, *settings)
                _require(
                    _alike(found, without[0]),
                    f"{about}, ranks sample {index} otherwise without the tokens that may not merge (padding, special "
                    "tokens): count only those that `mergeable` names.",
                )


def _look_up(table: dict[str, Any], kind: str, name: str) -> None:
    if name not in table:
        raise ValueError(f"No {kind} {name!r} is registered. Known: {', '.join(map(repr, table))}.")


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _spec(algorithm: str, case: _Case) -> MergeSpec:
    return MergeSpec(KeepRatio.from_float(case.ratio), algorithm)


def _run(name: str, case: _Case, about: str) -> Plan | None:
    try:
        plan = match_tokens(case.features, _spec(name, case), case.masks)
    except Exception as error:
        raise AssertionError(f"{about}, raised {type(error).__name__}: {error}") from error
    known = plan is None or isinstance(plan, Plan)
    _require(
        known, f"{about}, returned a {type(plan).__name__}: expected a MergePlan, or None if nothing is to merge."
    )
    return plan


def _score(name: str, similarity: torch.Tensor, mergeable: Any, margin: float, alpha: float, about: str) -> Any:
    try:
        energy = ENERGIES[name].score(similarity.clone(), mergeable, margin, alpha)  # which it may overwrite
    except Exception as error:
        raise AssertionError(f"{about}, raised {type(error).__name__}: {error}") from error
    expected = tuple(similarity.shape[:2])
    found = tuple(getattr(energy, "shape", ()))
    _require(found == expected, f"{about}, has the shape {found}: expected one score per token, {expected}.")
    _require(energy.dtype == torch.float32, f"{about}, is {energy.dtype}: expected torch.float32.")
    return energy


def _alike(energy: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the energies of one sample `(n,)` rank it alike: they may differ by an offset and a scale."""

    def normed(values: torch.Tensor) -> torch.Tensor:
        values = values - values.mean()
        return values / values.abs().amax().clamp(min=1e-3)

    return torch.allclose(normed(energy), normed(other), atol=1e-3)


def _check_plan(plan: Plan | None, case: _Case, about: str) -> None:
    batch_size, num_tokens = case.features.shape[:2]
    masks, ratio = case.masks, KeepRatio.from_float(case.ratio)
    num_pairs = ratio.num_removed(max(num_tokens - masks.num_prefix_tokens, 0))
    if num_pairs == 0:
        _require(plan is None, f"{about}, merges where the ratio leaves nothing to merge. Return None there.")
        return
    _require(plan is not None, f"{about}, merges nothing, where {num_pairs} tokens have to go.")
    expected = masks.num_kept(ratio, num_tokens)
    found = tuple(plan.kept.shape)
    _require(
        found == (batch_size, expected),
        f"{about}, leaves {found[-1]} tokens of {num_tokens}: expected {expected}, whatever the data are.",
    )
    pairs = isinstance(plan, MergePlan)  # other kinds have none
    for field in ("kept", "source") if pairs else ("kept",):
        index = getattr(plan, field)
        inside = index.dtype == torch.int64 and ((index >= 0) & (index < num_tokens)).all()
        _require(inside, f"{about}, has more in {field} than the numbers of tokens, 0 to {num_tokens - 1}, as int64.")
    counted = masks.mergeable()
    counted = torch.arange(num_tokens) >= masks.num_prefix_tokens if counted is None else counted
    counted = counted.expand(batch_size, -1)
    for sample in range(batch_size) if pairs else ():
        _check_groups(plan, masks, counted[sample], ratio, sample, f"{about} (sample {sample})")
    inside = ((plan.assignment >= 0) & (plan.assignment < expected)).all()
    _require(inside, f"{about}, assigns tokens to places that are not between 0 and {expected - 1}.")


def _check_groups(
    plan: MergePlan, masks: TokenMasks, counted: torch.Tensor, ratio: KeepRatio, sample: int, about: str
) -> None:
    """The pairs of one sample, and the groups that they make."""
    pairs = slice(None) if plan.source_mask is None else plan.source_mask[sample]
    source, target = plan.source[sample][pairs].tolist(), plan.target[sample][pairs].tolist()
    kept = plan.kept[sample][slice(None) if plan.valid is None else plan.valid[sample]].tolist()
    real = set(range(len(counted)) if masks.valid is None else masks.valid[sample].nonzero()[:, 0].tolist())
    may_merge = set(counted.nonzero()[:, 0].tolist())
    num_removed = ratio.num_removed(len(may_merge))
    _require(len(set(source)) == len(source), f"{about}, merges a token twice: each may be a source once.")
    _require(
        set(source) <= may_merge,
        f"{about}, merges a token away that may not merge (padding, or special): {sorted(set(source) - may_merge)}.",
    )
    removed = real - set(kept)
    lost = sorted(removed - set(plan.source[sample].tolist()))
    _require(not lost, f"{about}, has too few pairs: tokens {lost} are gone, and in none of them.")
    into_source = [token for token, joined in zip(source, target) if joined in source]
    _require(
        not into_source,
        f"{about}, merges tokens {into_source} into some that are merged away themselves: no target may be a source.",
    )
    targets = set(target)
    _require(
        targets <= may_merge,
        f"{about}, merges tokens into some that may not merge (padding, or special): {sorted(targets - may_merge)}.",
    )
    _require(
        len(removed) == num_removed and set(source) <= removed and removed <= may_merge,
        f"{about}, removes {len(removed)} tokens of the {len(may_merge)} that may merge: expected {num_removed}, the "
        "pairs that Candidates.pair_mask() names.",
    )
    slots = plan.assignment[sample].tolist()
    groups = {token: place for place, token in enumerate(kept)}
    groups.update({token: groups[joined] for token, joined in zip(source, target)})
    wrong = sorted(token for token, place in groups.items() if slots[token] != place)
    _require(not wrong, f"{about}, has tokens {wrong} in another group than the pairs say.")
    if masks.protected is not None:
        protected = may_merge & set(masks.protected[sample].nonzero()[:, 0].tolist())
        if len(may_merge - protected) > num_removed:
            touched = protected & (targets | set(source))
            _require(not touched, f"{about}, merges protected tokens: {sorted(touched)}.")


def _check_sample(name: str, plan: Plan, case: _Case, index: int, about: str) -> None:
    """A sample alone, and without its padding, has the groups that it has in the batch."""
    alone = _run(name, case, about)
    same = alone is not None and torch.equal(plan.assignment[index], alone.assignment[0])
    _require(same, f"{about}, merges sample {index} otherwise when it is alone: no sample may depend on the others.")
    if case.masks.valid is None or case.masks.valid.all():
        return
    valid = case.masks.valid[0]
    short = _run(name, case.take(slice(None), valid), about)
    groups = torch.arange(int(valid.sum())) if short is None else short.assignment[0]
    padded = plan.assignment[index][valid]
    same = torch.equal(groups[:, None] == groups[None], padded[:, None] == padded[None])
    _require(same, f"{about}, merges sample {index} otherwise without its padding: padding must not count.")


def _cases() -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(0)
    for kind in _KINDS:
        for num_tokens, ratio in ((24, 0.75), (24, 0.5), (23, 0.9), (5, 0.5), (2, 0.5), (1, 0.5)):
            features = _features(kind, num_tokens, generator)
            attention = torch.rand(3, num_tokens, generator=generator)  # for those that read it
            for words, masks in _masks(num_tokens):
                masks = replace(masks, attention=attention)
                yield _Case(kind, f"{num_tokens} {kind} tokens at ratio {ratio}{words}", features, masks, ratio)


def _features(kind: str, num_tokens: int, generator: torch.Generator) -> torch.Tensor:
    features = torch.randn(3, num_tokens, _WIDTH, generator=generator)
    if kind == "equal":
        features = features[:, :1].expand(-1, num_tokens, -1).contiguous()
    elif kind == "repeated":
        features = features[:, torch.arange(num_tokens) % 3 % num_tokens]
    elif kind == "zero":
        features = torch.zeros_like(features)
    return features.to(getattr(torch, kind) if "float" in kind else torch.float32)


def _masks(num_tokens: int) -> Iterator[tuple[str, TokenMasks]]:
    position = torch.arange(num_tokens)
    lengths = torch.tensor([num_tokens, max(num_tokens * 2 // 3, 1), max(num_tokens // 3, 1)]).unsqueeze(1)
    right, left = position < lengths, position >= num_tokens - lengths
    first = position.expand(3, -1) == (num_tokens - lengths)  # as CLS under padding on the left
    some = (position % 5 == 2).expand(3, -1)
    yield "", TokenMasks()
    yield " with a class token", TokenMasks(num_prefix_tokens=1)
    yield ", padded on the right", TokenMasks(valid=right)
    yield ", padded on the left", TokenMasks(valid=left)
    yield ", padded, with a class token", TokenMasks(1, right)
    yield ", padded, with special tokens", TokenMasks(0, left, first, 1)
    yield ", some of them protected", TokenMasks(1, None, protected=some)
    yield ", padded, some of them protected", TokenMasks(0, right, protected=some)
    yield ", all of them protected", TokenMasks(protected=torch.ones(3, num_tokens, dtype=torch.bool))
