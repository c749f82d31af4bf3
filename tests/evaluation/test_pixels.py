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


import numpy as np
import pytest
import torch
import zoo
from transformers.modeling_outputs import SemanticSegmenterOutput

from optimum_pitome import compare, evaluate
from optimum_pitome.evaluation.passes import find_judge
from optimum_pitome.evaluation.pixels import DepthJudge, PixelJudge, near_borders


SETTINGS = {"ratio": 0.6}


def build(class_name):
    model = next(case for case in zoo.all_cases() if case.model_class.__name__ == class_name).build().eval()
    with torch.no_grad():  # as it is built, all pixels have one class
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture
def segmenter():
    return build("DPTForSemanticSegmentation")


def pictures(segmenter, number=6):
    """Batches with a label for each pixel, of which some do not count."""
    torch.manual_seed(1)
    side = segmenter.config.image_size
    labels = torch.randint(0, segmenter.config.num_labels, (number, 4, 4))
    labels = labels.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
    labels[:, :3] = 255
    pixels = torch.randn(number, 3, side, side)
    return [{"pixel_values": pixels[i : i + 3], "labels": labels[i : i + 3]} for i in range(0, number, 3)]


def test_scores_by_hand():
    """Left half 0, right half 1, and a decision that is one column too far to the right."""
    right, found = np.zeros((4, 8), dtype=np.uint8), np.zeros((4, 8), dtype=np.uint8)
    right[:, 4:], found[:, 5:] = 1, 1
    right[0] = 255
    judge = PixelJudge(None, border=1, class_names={1: "figure", 7: "absent"})
    assert judge.scores([found], [right]) == {
        "pixel_accuracy": [21 / 24],
        "mean_iou": [pytest.approx((12 / 15 + 9 / 12) / 2)],
        # Columns 3 and 4, and the whole row below what does not count.
        "border_iou": [pytest.approx((6 / 9 + 3 / 6) / 2)],
        "iou_figure": [pytest.approx(9 / 12)],
    }
    assert judge.agree(found, found) == 1.0 and judge.agree(found, right) == (21 / 32)
    with pytest.raises(ValueError, match=r"labels of \(4, 8\) do not fit an answer of \(2, 2\) pixels"):
        judge.scores([found[:2, :2]], [right])


def test_pictures_that_say_nothing_are_left_out():
    empty, plain = np.full((4, 4), 255), np.zeros((4, 4), dtype=np.int64)
    scores = PixelJudge(None).scores([plain, plain], [empty, plain])
    assert scores == {"pixel_accuracy": [1.0], "mean_iou": [1.0]}
    assert PixelJudge(None).scores([plain], [plain - 100]) == {}


@pytest.mark.parametrize("distance", [1, 3])
def test_what_is_near_a_border(distance):
    labels = np.random.default_rng(0).integers(0, 3, (3, 4)).repeat(5, 0).repeat(6, 1)
    rows, columns = labels.shape
    expected = np.zeros(labels.shape, dtype=bool)
    for row in range(rows):
        for column in range(columns):
            window = labels[
                max(0, row - distance) : row + distance + 1, max(0, column - distance) : column + distance + 1
            ]
            expected[row, column] = (window != labels[row, column]).any()
    assert (near_borders(labels, distance) == expected).all() and 0 < expected.mean() < 1


def test_logits_reach_the_size_of_the_picture():
    logits = torch.randn(2, 3, 4, 4)
    judge = PixelJudge(lambda pixel_values: SemanticSegmenterOutput(logits=logits))
    found = judge.answer({"pixel_values": torch.zeros(2, 3, 8, 12)})
    expected = torch.nn.functional.interpolate(logits, (8, 12), mode="bilinear").argmax(1)
    assert [one.dtype for one in found] == [np.uint8] * 2 and (np.stack(found) == expected.numpy()).all()


def test_a_segmenter_is_evaluated(segmenter):
    """The judge is found; all is as if it was counted here, and ratio 1 is the dense model."""
    batches = pictures(segmenter)
    merged, same = evaluate(segmenter, batches, ratios=[SETTINGS, 1.0], progress=False)
    assert same.agreement["agreement"] == 1.0 and same.difference["mean_iou"] == 0.0
    assert merged.agreement_title == "pixels as dense" and merged.agreement["agreement"] < 1.0
    assert merged.num_samples == 6 and merged.metrics == ["pixel_accuracy", "mean_iou", "border_iou"]
    with torch.no_grad():
        logits = torch.cat([segmenter(pixel_values=batch["pixel_values"]).logits for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    classes = torch.nn.functional.interpolate(logits, labels.shape[1:], mode="bilinear").argmax(1)
    accuracy = ((classes == labels) & (labels != 255)).sum() / (labels != 255).sum()
    assert merged.dense["pixel_accuracy"] == pytest.approx(accuracy.item())


def test_a_segmenter_without_labels_keeps_its_pixels(segmenter):
    batches = [{"pixel_values": batch["pixel_values"]} for batch in pictures(segmenter)]
    (found,) = evaluate(segmenter, batches, ratios=SETTINGS, progress=False)
    assert found.metrics == [] and 0.0 < found.agreement["agreement"] < 1.0
    labelled = {"labels": torch.zeros(1, 4, 4)}
    assert isinstance(find_judge(torch.nn.Linear(1, 1), labelled), PixelJudge)


def test_settings_are_compared(segmenter):
    grid = {"reference": SETTINGS, "settings": {"tome": {"algorithm": "tome"}}}
    found = compare(segmenter, pictures(segmenter), grid, progress=False)
    assert {entry.measure for entry in found.entries} == {"mean_iou"} and "mean IoU" in str(found)


def test_depths_by_hand():
    dense, labels = np.array([[1.0, 2.0], [0.0, 4.0]]), np.array([[0.0, 2.4], [0.0, 6.0]])
    judge = DepthJudge(None)
    assert judge.agree(dense, dense) == 1.0 and judge.agree(dense * [[1.04, 1.06]], dense) == 0.5
    assert judge.scores([dense, dense], [labels, 0 * labels]) == {"delta_1.25": [0.5]}
    with pytest.raises(ValueError, match=r"labels of \(1, 2\) do not fit an answer of \(2, 2\) pixels"):
        judge.scores([dense], [labels[:1]])


# The floor has no DINOv2 as Depth Anything reads it.
@pytest.mark.parametrize(
    "class_name", ["DPTForDepthEstimation", pytest.param("DepthAnythingForDepthEstimation", marks=pytest.mark.slow)]
)
def test_a_model_of_depth_is_evaluated(class_name):
    model = build(class_name)
    batch = {"pixel_values": torch.randn(3, 3, 32, 32)}
    with torch.no_grad():
        batch["labels"] = model(**batch).predicted_depth
    merged, same = evaluate(model, [batch], ratios=[SETTINGS, 1.0], progress=False)
    assert same.agreement["agreement"] == 1.0 and same.agreement_title == "depth as dense, factor 1.05"
    assert merged.agreement["agreement"] < 1.0 and merged.dense["delta_1.25"] == 1.0
