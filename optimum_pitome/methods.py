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

"""The matching algorithms, energies and profiles that a configuration can name, and what each of them reads and costs.

The one list of them. Imports nothing heavy: the command line checks its options here before it imports torch. The
built-in ones get their functions where those are defined, in `merging`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def all_pairs(num_tokens: int, num_removed: int) -> int:
    """Every token against every other."""
    return num_tokens**2


def alternate_pairs(num_tokens: int, num_removed: int) -> int:
    """Every second token against the others."""
    return (num_tokens // 2) * ((num_tokens + 1) // 2)


def removed_with_kept(num_tokens: int, num_removed: int) -> int:
    """Every token that goes against every one that stays."""
    return num_removed * (num_tokens - num_removed)


def tofu_combination(index: int, num_layers: int) -> str:
    """ToFu (2312.01026): early layers keep the target's vector as it is, later ones merge with MLERP.

    The paper's reason is that a layer answers the mean of two tokens with the mean of its answers ("functional
    linearity") in later layers only. Early is the first half of the depth.
    """
    return "target" if index < num_layers // 2 else "mlerp"


#: How `pitome_summary` counts.
COUNTS = ("exact", "paper")
#: How the tokens of a group become one: [`Algorithm.combine`], one class of plan each in `merging`.
COMBINATIONS = ("mean", "mlerp", "target", "prune", "prune_half", "resample")
#: Those of them whose means are shorter than what they are of, which the setting `keep_norm` is for.
SHORTENING = ("mean", "prune_half")


@dataclass
class Algorithm:
    """One way to match tokens.

    Attributes:
        comparisons (`Callable[[int, int], int]`):
            From the tokens of a sample that may merge and those of them that are removed, how many pairs of tokens are
            compared: what `pitome_summary` counts. `None`: none.
        reads_energy (`bool`): whether it ranks tokens by an energy, the settings `energy`, `margin` and `alpha`.
        combine (`str` or `Callable[[int, int], str]`):
            How the tokens of a group become one, one of `COMBINATIONS`; or a function that says so for layer `index`
            of `num_layers`. `"mean"`: their mean, weighted by their sizes. `"mlerp"`: the direction of that mean, with
            the norm of the longest of them. `"target"`: the vector of the one that the others join; sizes add up.
            `"prune"`: the others are dropped, vectors and sizes are lost. `"prune_half"`: of a sample's `k` pairs, the
            last `k // 2` are dropped, and the others merge as `"mean"` does. `"resample"`: the plan is no matching but
            a linear map.
        reads_attention (`bool`): whether it needs what the class token pays to each token.
        draws (`bool`): whether chance decides something, and with it the setting `random_seed`.
        protects (`bool`):
            Whether all but the `2k` tokens of highest energy are left alone. Nothing but pictures of it reads this.
        takes_ends (`bool`):
            Whether it may be given `TokenMasks.ends`. Those that users register may not: they know the masks alone.
        match (`Callable`, *optional*): the function. See [`register_algorithm`].
    """

    comparisons: Callable[[int, int], int] | None = all_pairs
    reads_energy: bool = False
    combine: str | Callable[[int, int], str] = "mean"
    reads_attention: bool = False
    draws: bool = False
    protects: bool = False
    takes_ends: bool = True
    match: Callable[..., Any] | None = None

    @property
    def takes_means(self) -> bool:
        """Whether tokens become a mean in some layer."""
        return not {self.combine_in(index, 2) for index in range(2)} <= {"target", "prune", "resample"}

    def combine_in(self, index: int, num_layers: int) -> str:
        """What layer `index` of `num_layers` does, one of `COMBINATIONS`."""
        return self.combine if isinstance(self.combine, str) else self.combine(index, num_layers)


@dataclass
class Energy:
    """One way to score how redundant a token is.

    Attributes:
        has_margin (`bool`): whether the settings `margin` and `alpha` are parameters of it.
        score (`Callable`, *optional*): the function. See [`register_energy`].
    """

    has_margin: bool = False
    score: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Profile:
    """How a budget is spread over the layers that merge.

    Attributes:
        help (`str`): what it does, as the end of a sentence.
        removed (`Callable[[float, float], float]`):
            From a layer's place among those that merge, in (0, 1], and a strength from 0 (nothing is removed) to 1
            (half of the tokens in every layer) to the fraction of its tokens that the layer removes. What is above
            one half counts as one half. It never falls when the strength grows.
    """

    help: str
    removed: Callable[[float, float], float]


def profile_of(lateness: float) -> Callable[[float, float], float]:
    """A profile whose shape follows the budget: a small budget merges in the last layers only, a large one nearly
    alike in all of them.

    A layer at `place` removes `m * (1 + p) * place ** p` of its tokens. `m`, the mean over the layers, grows with the
    strength, and `p` falls: it is `c / m` up to `m = c`, and `(c / m) ** 2` from there on. With a lateness `c` of 0
    all layers remove `m`. No layer removes less when `m` grows.
    """

    def removed(place: float, strength: float) -> float:
        if not 1e-9 < strength < 1:  # where the fractions below would not be numbers
            return strength // 1 / 2
        mean = 0.5 * strength / (1 - strength)
        power = min(lateness / mean, (lateness / mean) ** 2)
        return mean * (1 + power) * place**power

    return removed


def in_proportion(weight: float, strength: float) -> float:
    """What a layer removes whose fraction is in proportion to `weight`: it grows beyond one half with the strength."""
    return 0.5 if strength == 1 else weight * strength / (1 - strength)


def first_third(place: float, strength: float) -> float:
    """What a layer removes where the first third of the layers does nearly all of it, alike; others join them when
    these come near one half."""
    return 0.5 * strength ** (1 + 24 * max(0.0, place - 1 / 3))


PROFILES: dict[str, Profile] = {
    "uniform": Profile("the same ratio in every layer", profile_of(0.0)),
    "balanced": Profile("late layers remove more, the less so the larger the budget", profile_of(0.1)),
    "late": Profile("the same with still later layers", profile_of(0.2)),
    "rising": Profile("each layer removes in proportion to its depth", in_proportion),
    "early": Profile("the first third of the layers removes nearly all, alike", first_third),
}
ALGORITHMS: dict[str, Algorithm] = {
    "pitome": Algorithm(reads_energy=True, protects=True),
    "pitome_unprotected": Algorithm(lambda n, k: all_pairs(n, k) + alternate_pairs(n, k), reads_energy=True),
    "pitome_halves": Algorithm(reads_energy=True, protects=True),
    "pitome_random_split": Algorithm(reads_energy=True, draws=True, protects=True),
    "mutual": Algorithm(),
    "tome": Algorithm(alternate_pairs),
    "tofu": Algorithm(alternate_pairs, combine=tofu_combination),
    "dct": Algorithm(None, combine="resample"),
    "diffrate": Algorithm(removed_with_kept, combine="prune_half", reads_attention=True),
    "random": Algorithm(None, combine="prune", draws=True),
}
ENERGIES: dict[str, Energy] = {
    "paper": Energy(has_margin=True),
    "elu": Energy(has_margin=True),
    "gaussian": Energy(has_margin=True),
    "nearest": Energy(),
}


def register_algorithm(
    name: str,
    *,
    comparisons: Callable[[int, int], int] | None = all_pairs,
    reads_energy: bool = False,
    combine: str | Callable[[int, int], str] = "mean",
    reads_attention: bool = False,
    draws: bool = False,
    protects: bool = False,
    exist_ok: bool = False,
) -> Callable[[Callable], Callable]:
    """Adds a matching algorithm, which `PiToMeConfig(algorithm=name)` then accepts.

    ```python
    @register_algorithm("neighbours")
    def match_neighbours(features, spec, masks):
        candidates = Candidates.read(features, spec, masks)
        if candidates is None:
            return None
        ...
        return candidates.plan(source, target, candidates.pair_mask())
    ```

    A checkpoint or a recipe that names it can be loaded where it is registered; elsewhere loading it is refused.

    Args:
        name (`str`): how configurations call it.
        comparisons, reads_energy, combine, reads_attention, draws, protects:
            What it reads, costs and does, see [`Algorithm`].
        exist_ok (`bool`, *optional*, defaults to `False`):
            Whether to replace an algorithm that was registered under this name, as when the cell of a notebook runs
            again. Built-in ones stay.

    Returns:
        A decorator for the function. It is called without gradients as `function(features, spec, masks)`: what is
        compared (`torch.Tensor` of shape `(B, N, dim)`, any floating dtype), the layer's [`~merging.MergeSpec`], and
        [`~merging.TokenMasks`]. It returns a [`~merging.MergePlan`], or `None` where nothing is to be merged. No shape
        of the plan may depend on data.

    Raises:
        ValueError: if the name is taken, or `combine` is none of `COMBINATIONS`.
    """
    if isinstance(combine, str) and combine not in COMBINATIONS:
        raise ValueError(f"combine={combine!r} is not known. Accepted: {', '.join(COMBINATIONS)}.")
    entry = Algorithm(comparisons, reads_energy, combine, reads_attention, draws, protects, takes_ends=False)
    return _adder(ALGORITHMS, "algorithm", name, entry, "match", exist_ok)


def register_energy(name: str, *, has_margin: bool = False, exist_ok: bool = False) -> Callable[[Callable], Callable]:
    """Adds an energy, which `PiToMeConfig(energy=name)` then accepts: tokens of high energy merge first.

    ```python
    @register_energy("mean")
    def mean_energy(similarity, mergeable, margin, alpha):
        if mergeable is None:
            return similarity.mean(dim=-1)
        weights = mergeable.to(similarity.dtype).unsqueeze(1)
        return (similarity * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)
    ```

    Args:
        name (`str`): how configurations call it.
        has_margin (`bool`, *optional*, defaults to `False`): see [`Energy`].
        exist_ok (`bool`, *optional*, defaults to `False`): as in [`register_algorithm`].

    Returns:
        A decorator for the function. It is called without gradients as `function(similarity, mergeable, margin,
        alpha)`: cosines of all pairs (`torch.FloatTensor` of shape `(B, M, M)`, which it may overwrite), the tokens
        that may merge (`torch.BoolTensor` of shape `(B, M)`, or `None` for all), and two `float`. It returns a
        `torch.FloatTensor` of shape `(B, M)`. Energies are compared in steps of 2**-22, so they should lie within a
        few units of zero (per unit of `alpha` where that is above 1).

    Raises:
        ValueError: if the name is taken.
    """
    return _adder(ENERGIES, "energy", name, Energy(has_margin), "score", exist_ok)


_BUILT_IN = {"algorithm": frozenset(ALGORITHMS), "energy": frozenset(ENERGIES)}


def _adder(
    table: dict[str, Any], kind: str, name: str, entry: Any, attribute: str, exist_ok: bool
) -> Callable[[Callable], Callable]:
    def decorate(function: Callable) -> Callable:
        if name in _BUILT_IN[kind]:
            raise ValueError(f"The {kind} {name!r} is already registered. It is built in: choose another name.")
        if name in table and not exist_ok:
            raise ValueError(f"The {kind} {name!r} is already registered. Pass exist_ok=True to replace it.")
        setattr(entry, attribute, function)
        table[name] = entry
        return function

    return decorate
