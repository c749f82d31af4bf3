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

"""What heads say of every pixel, dense and merged: [`PixelJudge`] of its class, [`DepthJudge`] of its depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .judges import Judge


class PixelJudge(Judge):
    """The class of every pixel: of a model that returns `logits` of shape `(batch, classes, height, width)`, which are
    brought to the size of `pixel_values` (bilinear).

    The batches may hold `labels`: for each picture a map of class indices, of the size of `pixel_values`. Entries
    below 0, and those of `ignored`, do not count. Every score is one of a picture: `pixel_accuracy`; `mean_iou`, the
    mean of intersection over union of the classes that its labels name; and `border_iou`, the same over the pixels
    near a border between two labels alone (of the pictures that have one). What agrees is the share of all pixels
    that have the dense model's class.

    Args:
        model (`torch.nn.Module`): a model for semantic segmentation.
        border (`int`, *optional*, defaults to 8): so many pixels on both sides of a border are near to it.
        ignored (`int`, *optional*): defaults to the `semantic_loss_ignore_index` of the configuration, or else 255.
        class_names (`Mapping[int, str]`, *optional*):
            Of single classes, whose IoU is measured, too, on the pictures with them: `iou_{name}`.
    """

    agreement = "pixels as dense"
    metrics = ("pixel_accuracy", "mean_iou", "border_iou")
    compared = ("mean_iou",)

    def __init__(
        self,
        model: nn.Module,
        border: int = 8,
        ignored: int | None = None,
        class_names: Mapping[int, str] | None = None,
    ):
        self._model, self._border, self._names = model, border, dict(class_names or {})
        default = getattr(getattr(model, "config", None), "semantic_loss_ignore_index", 255)
        self._ignored = default if ignored is None else ignored
        self.metrics = (*self.metrics, *(f"iou_{name}" for name in self._names.values()))

    def answer(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        size = inputs["pixel_values"].shape[-2:]
        logits = self._model(**inputs).logits
        # One picture at a time: logits of many classes are large at this size.
        maps = [nn.functional.interpolate(one[None].float(), size, mode="bilinear")[0].argmax(dim=0) for one in logits]
        kind = torch.uint8 if logits.shape[1] <= 256 else torch.int16
        return [classes.to(kind).cpu().numpy() for classes in maps]

    def agree(self, decision: np.ndarray, dense: np.ndarray) -> float:
        return float((decision == dense).mean())

    def scores(self, decisions: list[np.ndarray], references: Sequence[Any]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in self.metrics}
        for classes, right in zip(decisions, references):
            right = _fitting(right, classes)
            counts = (right >= 0) & (right != self._ignored)
            present = np.unique(right[counts]).tolist()
            if not present:
                continue
            ious = {label: iou(classes == label, right == label, counts) for label in present}
            found["pixel_accuracy"].append(float((classes == right)[counts].mean()))
            found["mean_iou"].append(float(np.mean([*ious.values()])))
            near = counts & near_borders(right, self._border)
            here = np.unique(right[near]).tolist()
            if here:
                found["border_iou"].append(float(np.mean([iou(classes == one, right == one, near) for one in here])))
            for label in ious.keys() & self._names.keys():
                found[f"iou_{self._names[label]}"].append(ious[label])
        return {name: values for name, values in found.items() if values}


class DepthJudge(Judge):
    """The depth of every pixel: of a model that returns `predicted_depth` of shape `(batch, height, width)`.

    The batches may hold `labels`: for each picture a map of depths of that size, 0 where it is not known. The score of
    a picture, `delta_1.25`, is the share of its pixels whose depth is right but for a factor below 1.25 (1406.2283);
    it means nothing for models whose depth has no scale. What agrees is the share of all pixels that keep the dense
    model's depth but for a factor below `factor`.

    Args:
        model (`torch.nn.Module`): a model for depth estimation.
        factor (`float`, *optional*, defaults to 1.05): above 1.
    """

    metrics = compared = ("delta_1.25",)

    def __init__(self, model: nn.Module, factor: float = 1.05):
        self._model, self._factor = model, factor
        self.agreement = f"depth as dense, factor {factor:g}"

    def answer(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        return list(self._model(**inputs).predicted_depth.float().cpu().numpy())

    def agree(self, decision: np.ndarray, dense: np.ndarray) -> float:
        return float(_within(decision, dense, self._factor).mean())

    def scores(self, decisions: list[np.ndarray], references: Sequence[Any]) -> dict[str, list[float]]:
        pairs = [(depth, _fitting(right, depth)) for depth, right in zip(decisions, references)]
        found = [float(_within(depth, right, 1.25)[right > 0].mean()) for depth, right in pairs if (right > 0).any()]
        return {"delta_1.25": found} if found else {}


def _within(depth: np.ndarray, right: np.ndarray, factor: float) -> np.ndarray:
    return np.maximum(depth, right) <= factor * np.minimum(depth, right)


def _fitting(right: Any, found: np.ndarray) -> np.ndarray:
    right = np.asarray(right)
    if right.shape != found.shape:
        raise ValueError(
            f"labels of {right.shape} do not fit an answer of {found.shape} pixels: expected one label for each of "
            "its pixels, as an image processor makes them of segmentation_maps."
        )
    return right


def iou(found: np.ndarray, right: np.ndarray, counts: np.ndarray) -> float:
    """Intersection over union of two masks, over the pixels that count; `right` must hold some of them."""
    return float((found & right & counts).sum() / ((found | right) & counts).sum())


def near_borders(labels: np.ndarray, distance: int) -> np.ndarray:
    """Which pixels have another label among those at most `distance` rows and columns away."""
    values = torch.from_numpy(labels.astype(np.float32))[None, None]
    window = {"kernel_size": 2 * distance + 1, "stride": 1, "padding": distance}
    highest, lowest = (nn.functional.max_pool2d(sign * values, **window) for sign in (1, -1))
    return (highest != -lowest)[0, 0].numpy()
