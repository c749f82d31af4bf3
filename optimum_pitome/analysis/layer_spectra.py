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

"""[`measure_spectra`]: the spectral distance of every layer's merge in a model, and what that merge alone costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..apply import apply_pitome, layers_watched, settings_kept
from ..configuration.config import PiToMeConfig
from ..methods import ALGORITHMS
from ..modeling.eval_mode import eval_mode
from ..modeling.record import LayerRecord
from ..modeling.rewrite import rewritten_encoders
from .loss import Distance, Samples
from .spectral_report import LayerSpectra
from .spectrum import GRAPHS, spectral_distance, token_graph


def all_algorithms() -> dict[str, dict[str, Any]]:
    """Settings by name: every algorithm that is registered, and PiToMe with the paper's energy."""
    found = {name: {"algorithm": name} for name in ALGORITHMS}
    return {"pitome, paper energy": {"algorithm": "pitome", "energy": "paper"}, **found}


@torch.no_grad()
def record_distances(record: LayerRecord, graph: str = "distance") -> torch.Tensor:
    """The spectral distance of what one layer merged, between the tokens that may merge.

    What never merges (class token, registers, padding) is no node of the graph, as the paper sets the class token
    aside. Tokens that `random` drops count with the token in whose place [`MergePlan.unmerge`] puts them.

    Args:
        record ([`~modeling.record.LayerRecord`]): of `B` samples.
        graph (`str`, *optional*, defaults to `"distance"`): see [`token_graph`].

    Returns:
        `torch.DoubleTensor` of shape `(B,)`.
    """
    features = record.features
    if record.plan is None:
        return features.new_zeros(len(features), dtype=torch.float64)
    mergeable = record.masks.mergeable()
    if mergeable is None:
        prefix = record.masks.num_prefix_tokens
        groups = torch.stack([one.unique(return_inverse=True)[1] for one in record.plan.assignment[:, prefix:]])
        return spectral_distance(token_graph(features[:, prefix:], graph), groups)
    found = []
    for sample, nodes in enumerate(mergeable.expand(len(features), -1)):  # each has its own number of nodes
        groups = record.plan.assignment[sample, nodes].unique(return_inverse=True)[1]
        found.append(spectral_distance(token_graph(features[sample, nodes], graph), groups))
    return torch.stack(found)


def measure_spectra(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    ratio: float = 0.75,
    layers: Sequence[int] | None = None,
    graph: str = "distance",
    distance: Distance | None = None,
    progress: bool = True,
) -> LayerSpectra:
    """Lets one layer at a time merge, so that it compares what the dense model has there, and notes the spectral
    distance of the merge and how far the outputs move. The model is left as it was.

    Args:
        model (`torch.nn.Module`): a model that [`apply_pitome`] takes, of one encoder.
        batches (`Iterable[Mapping]`): inputs of `model` as batches; two samples at least.
        settings (`Mapping[str, Mapping]`, *optional*):
            Name → fields of [`PiToMeConfig`] beside `ratio` and `layers`. Defaults to [`all_algorithms`].
        ratio (`float`, *optional*, defaults to 0.75): the share of the mergeable tokens that the layer keeps.
        layers (`Sequence[int]`, *optional*): indices of the layers. `None`: all of them, one after another.
        graph (`str`, *optional*, defaults to `"distance"`): see [`token_graph`].
        distance (`Callable`, *optional*): of outputs, see [`~analysis.loss.Samples`].
        progress (`bool`, *optional*, defaults to `True`): whether to show a bar.

    Returns:
        [`LayerSpectra`].

    Raises:
        ValueError: if nothing is to be compared or there are fewer than two samples, if settings say `ratio` or
            `layers`, or if the model has several encoders that merge.
    """
    settings = all_algorithms() if settings is None else settings
    _check(settings, ratio, graph)
    with eval_mode(model), settings_kept(model):
        apply_pitome(model, PiToMeConfig(ratio=ratio))
        (encoder,) = _one(rewritten_encoders(model))
        samples = Samples(model, batches, distance)
        indices = _indices(layers, len(encoder.pitome.specs))
        bar = logging.tqdm(total=len(indices) * len(settings), disable=not progress, unit=" merges")
        metrics, distances, losses = set(), [], []
        for fields in settings.values():
            for layer in indices:
                apply_pitome(model, PiToMeConfig(**{**fields, "ratio": ratio, "layers": [layer]}))
                metrics.add(encoder.pitome.specs[layer].metric)
                found: list[torch.Tensor] = []
                with layers_watched(model, lambda record: found.append(record_distances(record, graph).cpu())):
                    losses.append(samples.losses().double().cpu())
                if sum(map(len, found)) != len(losses[-1]):
                    raise ValueError(
                        f"Layer {layer} merges nothing at ratio={ratio}, at least of some inputs, which are too "
                        "short. Take a lower ratio or longer inputs."
                    )
                distances.append(torch.cat(found))
                bar.update()
        bar.close()
    shape = (len(settings), len(indices), -1)
    values = [torch.stack(one).view(shape) for one in (distances, losses)]
    if values[0].shape[2] < 2:
        raise ValueError("One sample is too few: its loss is measured from the mean of all. Give two or more.")
    metric = " or ".join(sorted(metrics)).replace("_", " ")
    return LayerSpectra(tuple(settings), tuple(indices), graph, metric, *values)


def _check(settings: Mapping[str, Mapping[str, Any]], ratio: Any, graph: str) -> None:
    if not settings:
        raise ValueError("settings is empty: name at least one to measure.")
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise ValueError(f"ratio={ratio!r}: expected one number between 0 and 1, the same for every layer.")
    if graph not in GRAPHS:
        raise ValueError(f"graph={graph!r} is not known. Accepted: {', '.join(map(repr, GRAPHS))}.")
    said = ("ratio", "layers", "flops_ratio", "num_tokens", "profile", "parts", "preset")
    for name, fields in settings.items():
        wrong = sorted({*said} & {*fields})
        if wrong:
            raise ValueError(
                f"The settings {name!r} say {', '.join(wrong)}, but each layer merges by itself, at one ratio: leave "
                "it out of them."
            )


def _one(encoders: list[nn.Module]) -> list[nn.Module]:
    if len(encoders) != 1:
        raise ValueError(f"The model has {len(encoders)} encoders that merge: measure one of them by itself.")
    return encoders


def _indices(layers: Sequence[int] | None, count: int) -> list[int]:
    if layers is None:
        return list(range(count))
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ValueError(f"layers={list(layers)}: expected some of the layers 0 to {count - 1}.")
    return [layer % count for layer in layers]
