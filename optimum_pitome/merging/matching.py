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

"""From what is compared to a plan: runs the algorithm of a layer, as an operator where a compiler should not look."""

from __future__ import annotations

import json

import torch

from ..methods import ALGORITHMS
from .combine import PLANS
from .constants import deciding
from .fused import FusedPlan, match_fused
from .masks import TokenMasks
from .opaque import empty, is_opaque, new_length, operator
from .plan import MergePlan
from .resample import ResamplePlan
from .spec import MergeSpec


#: What a layer merges by.
Plan = MergePlan | ResamplePlan


@deciding
def match_tokens(features: torch.Tensor, spec: MergeSpec, masks: TokenMasks | None = None) -> Plan | None:
    """Runs the algorithm of `spec`.

    Args:
        features (`torch.Tensor` of shape `(B, N, dim)` or `(B, heads, N, dim)`):
            What is compared (hidden states, or the mean of keys over the heads), any floating dtype.
        spec (`MergeSpec`): the layer's settings.
        masks (`TokenMasks`, *optional*): special tokens and padding, and the attention that weighs.

    Returns:
        [`MergePlan`] or [`ResamplePlan`], or `None` where nothing is to be merged (ratio 1, or too few tokens).
    """
    if spec.is_dense:
        return None
    masks = masks or TokenMasks()
    plan = match_fused(features, spec, masks)
    if plan is not None:
        return plan
    features, masks, algorithm = over_heads(features), masks.over_heads(), ALGORITHMS[spec.algorithm]
    if is_opaque(features) or not algorithm.takes_ends:
        masks = masks.spelled_out(features)
    if not is_opaque(features):
        return algorithm.match(features, spec, masks)
    of_masks = masks.num_prefix_tokens, masks.valid, masks.special, masks.max_special, masks.attention, masks.protected
    names = _tensors(spec.combine, masks.mergeable() is not None)
    return _kind(spec.combine)(**dict(zip(names, _match(features, spec.kind, spec.numbers, *of_masks))))


def over_heads(features: torch.Tensor) -> torch.Tensor:
    """What `match_tokens` compares, `(B, N, dim)`."""
    # The released code's text models compare the mean over the heads, too: their sum differs by a factor only.
    return features.mean(dim=1) if features.dim() == 4 else features


def _kind(combine: str) -> type[Plan]:
    return ResamplePlan if combine == "resample" else PLANS.get(combine, MergePlan)


def _tensors(combine: str, masked: bool) -> list[str]:
    """The fields of a plan that are tensors, with masks and without: the others are `None`."""
    if combine == "resample":
        return ["kept", "assignment", "place", "cell", *(["valid"] if masked else [])]
    names = ["kept", "source", "rows"]
    names += ["source_mask", "counted"] if masked or combine == "prune_half" else []
    return names + (["valid"] if masked else [])


def _shapes_of_plan(features, settings, numbers, num_prefix_tokens, valid, special, max_special, attention, protected):
    batch_size, num_tokens = features.shape[:2]
    combine, masked = json.loads(settings)["combine"], not (valid is None and special is None and protected is None)
    names, num_kept = _tensors(combine, masked), new_length(features, 2)
    # A length that no tensor has would be an error.
    num_pairs = new_length(features, 0) if "source" in names else 0
    shared = batch_size if masked else 1
    shapes = {
        "kept": (batch_size, num_kept),
        "source": (batch_size, num_pairs),
        "rows": (batch_size, num_tokens),
        "assignment": (batch_size, num_tokens),
        "source_mask": (batch_size, num_pairs),
        "counted": (batch_size, num_tokens),
        "valid": (batch_size, num_kept),
        "place": (shared, num_tokens),
        "cell": (shared, num_kept),
    }
    masks = ("source_mask", "counted", "valid")
    return [empty(features, shapes[name], torch.bool if name in masks else torch.int64) for name in names]


@operator("match", fake=_shapes_of_plan)
def _match(
    features: torch.Tensor,
    settings: str,
    numbers: torch.Tensor,
    num_prefix_tokens: int,
    valid: torch.Tensor | None,
    special: torch.Tensor | None,
    max_special: int,
    attention: torch.Tensor | None,
    protected: torch.Tensor | None,
) -> list[torch.Tensor]:
    """[`match_tokens`] on `MergeSpec.kind` and `numbers`, and the fields of [`TokenMasks`].

    Returns:
        The fields of the plan that [`_tensors`] names. Where nothing is to be merged, those of the plan that keeps
        every token.
    """
    masks = TokenMasks(num_prefix_tokens, valid, special, max_special, attention, protected)
    spec = MergeSpec.from_parts(settings, numbers)
    kind, masked = _kind(spec.combine), masks.mergeable() is not None
    plan = match_tokens(features, spec, masks) or _plan_of_all(kind, features, valid, masked)
    if type(plan) is not kind and not (kind is MergePlan and isinstance(plan, FusedPlan)):
        raise RuntimeError(
            f"The algorithm {spec.algorithm!r} was registered with combine={spec.combine!r}, and returned a "
            f"{type(plan).__name__}, not a {kind.__name__}. torch.compile needs to know: pass the right one to "
            "register_algorithm."
        )
    if plan.kept.shape[1] < 2:
        raise RuntimeError(
            "This compiled model would merge all tokens of a sample into one, and compilers treat a length of 1 as a "
            "case of its own. Keep more of them: min_tokens=2, or a higher ratio."
        )
    found = []
    for name in _tensors(spec.combine, masked):
        tensor = getattr(plan, name)
        if tensor is None:
            like = {"valid": plan.kept, "source_mask": plan.source, "counted": features[..., 0]}[name]
            tensor = torch.ones_like(like, dtype=torch.bool)
        # An operator may return neither its arguments nor views of one another.
        found.append(tensor.clone(memory_format=torch.contiguous_format))
    return found


def _plan_of_all(kind: type[Plan], features: torch.Tensor, valid: torch.Tensor | None, masked: bool) -> Plan:
    """The plan that keeps every token."""
    position = torch.arange(features.shape[1], device=features.device).expand(features.shape[0], -1)
    valid = None if valid is None else valid.expand_as(position)
    if kind is ResamplePlan:
        none = torch.full_like(position if masked else position[:1], -1)
        return ResamplePlan(position, position, none, none, valid)
    return kind(position, position[:, :0], position[:, :0], position, None, valid, counted=valid)
