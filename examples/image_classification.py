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

"""Image classification, dense against merged: accuracy, agreement, operations, measured speed.

Without arguments: DINOv2-small with a linear head trained here on its dense features, on real pictures from a package.

    python examples/image_classification.py

Any image classifier and any labelled pictures, from a hub or from disk, with the model's own head:

    python examples/image_classification.py --model google/vit-base-patch16-224 --dataset path/to/imagefolder

On several processes (the flag makes accelerate start them; without GPUs they work on the CPU, over gloo):

    accelerate launch --multi_gpu --num_processes 2 examples/image_classification.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from image_data import collate, load_labelled_pictures, model_labels, train_head
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled, pitome_summary
from optimum_pitome.metrics import Accuracy, Agreement


WARM_UP_BATCHES = 1


@dataclass
class Result:
    """One line of the table. Shares are in [0, 1]; GFLOPs are per image and include the merge step."""

    ratio: float
    gflops: float
    tokens: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    agreement: float
    agreement_low: float
    agreement_high: float
    images_per_second: float
    speed_up: float


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or path of an image classifier (default: DINOv2-small, new head)")
    parser.add_argument("--num-layers", type=int, default=12, help="of DINOv2-small, where no --model is given")
    parser.add_argument("--dataset", default="stamps", help="stamps, textiles, fashion_mnist, a hub id, or a folder")
    parser.add_argument("--split", help="split to evaluate (default: test, validation, or what there is)")
    parser.add_argument("--train-head", action="store_true", help="train a new linear head on dense features")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.95, 0.9, 0.85])
    parser.add_argument(
        "--pitome", default="{}", help='further settings as JSON, or a JSON file: \'{"algorithm": "tome"}\''
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-samples", type=int, help="evaluate on the first so many pictures only")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/image_classification"))
    arguments = parser.parse_args()
    arguments.train_head = arguments.train_head or arguments.model is None
    if arguments.model is None:
        import real_assets

        arguments.model = real_assets.dinov2_small_as_vit(num_layers=arguments.num_layers)
    text = arguments.pitome if arguments.pitome.lstrip().startswith("{") else Path(arguments.pitome).read_text()
    settings = json.loads(text)
    arguments.configs = {
        ratio: PiToMeConfig.from_value({**settings, "ratio": ratio}) for ratio in arguments.ratios if ratio != 1.0
    }
    return arguments


def forward(model, pixel_values: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Predicted classes, and the seconds that the model took."""
    start = time.perf_counter()
    predictions = model(pixel_values=pixel_values).logits.argmax(dim=-1)
    if predictions.device.type == "cuda":
        torch.cuda.synchronize(predictions.device)
    return predictions, time.perf_counter() - start


@torch.inference_mode()
def evaluate(model, loader, configs: dict[float, PiToMeConfig], accelerator: Accelerator, num_images: int):
    """Every batch runs dense and with every ratio, one after the other, so that a machine that slows down for a while
    slows all of them down.

    Returns:
        Per setting (ratio 1 is the dense model): the metrics, and the median of the seconds for a full batch.
    """
    ratios = [1.0, *configs]
    metrics = {ratio: (Accuracy(), Agreement()) for ratio in ratios}
    seconds: dict[float, list[float]] = {ratio: [] for ratio in ratios}

    def run(ratio: float, pixel_values: torch.Tensor):
        if ratio == 1.0:
            with pitome_disabled(model):
                return forward(model, pixel_values)
        apply_pitome(model, configs[ratio])
        return forward(model, pixel_values)

    bar = tqdm(total=num_images * len(ratios), unit="image", disable=not accelerator.is_main_process)
    batch_size = loader.total_batch_size // accelerator.num_processes
    for step, batch in enumerate(loader):
        if step == 0:
            for ratio in ratios * WARM_UP_BATCHES:
                run(ratio, batch["pixel_values"])
        dense = None
        for ratio in ratios:
            predictions, duration = run(ratio, batch["pixel_values"])
            if len(predictions) == batch_size:
                seconds[ratio].append(duration)
            predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
            dense = predictions if dense is None else dense
            accuracy, agreement = metrics[ratio]
            accuracy.add_batch(predictions=predictions, references=labels)
            agreement.add_batch(predictions=predictions, references=dense)
            bar.update(len(predictions))
    bar.close()
    values = {ratio: {**first.compute(), **second.compute()} for ratio, (first, second) in metrics.items()}
    # A small evaluation may have no full batch: then no speed is reported.
    medians = torch.tensor([statistics.median(seconds[ratio] or [float("nan")]) for ratio in ratios])
    speeds = (batch_size / accelerator.gather(medians.to(accelerator.device).unsqueeze(0))).sum(dim=0)
    return values, dict(zip(ratios, speeds.tolist()))


def summarise(model, configs: dict[float, PiToMeConfig], values, speeds) -> list[Result]:
    results = []
    for ratio in values:
        summary = pitome_summary(apply_pitome(model, configs.get(ratio, 1.0)))
        gflops = summary.gflops_merged + summary.gflops_merge_step
        speed_up = speeds[ratio] / speeds[1.0]
        results.append(
            Result(
                ratio, gflops, summary.tokens[-1], **values[ratio], images_per_second=speeds[ratio], speed_up=speed_up
            )
        )
    return results


def table(results: list[Result]) -> str:
    row = "{:>6} {:>15} {:>15} {:>14} {:>7} {:>15}"
    lines = [row.format("ratio", "accuracy", "agreement", "GFLOPs", "tokens", "images/s")]
    for result in results:
        dense = result.ratio == 1.0
        accuracy = f"{result.accuracy:.1%} ±{(result.accuracy_high - result.accuracy_low) / 2:.1%}"
        agreement = f"{result.agreement:.1%} ±{(result.agreement_high - result.agreement_low) / 2:.1%}"
        gflops = f"{result.gflops:.3g} ({results[0].gflops / result.gflops:.2f}x)"
        speed = f"{result.images_per_second:.1f} ({result.speed_up:.2f}x)"
        name, agreement = ("dense", "") if dense else (f"{result.ratio:g}", agreement)
        lines.append(row.format(name, accuracy, agreement, gflops, result.tokens, speed))
    return "\n".join(lines)


def draw(results: list[Result], title: str, path: Path) -> None:
    """Accuracy, and agreement with the dense model, against operations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    gflops = [result.gflops for result in results]
    for name, colour in (("accuracy", "tab:blue"), ("agreement", "tab:orange")):
        shown = results if name == "accuracy" else results[1:]
        share = [100 * getattr(result, name) for result in shown]
        low = [value - 100 * getattr(result, f"{name}_low") for value, result in zip(share, shown)]
        high = [100 * getattr(result, f"{name}_high") - value for value, result in zip(share, shown)]
        label = name if name == "accuracy" else "agreement with the dense model"
        axes.errorbar(gflops[-len(shown) :], share, [low, high], marker="o", capsize=3, color=colour, label=label)
    axes.axhline(100 * results[0].accuracy, color="tab:blue", linestyle=":", linewidth=1)
    for result in results:
        text = "dense" if result.ratio == 1.0 else f"r = {result.ratio:g}"
        axes.annotate(text, (result.gflops, 100 * result.accuracy), (0, -16), textcoords="offset points", ha="center")
    axes.set(
        xlabel="GFLOPs per image (multiply-add = 1), merge step included",
        ylabel="% (bars: 95 % interval)",
        title=title,
    )
    axes.margins(y=0.15)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    arguments = parse_arguments()
    # Said outright, or processes on a machine without GPU would not join (accelerate 1.15).
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    pictures = load_labelled_pictures(arguments.dataset, arguments.split, arguments.train_head, arguments.max_samples)
    if arguments.train_head:
        model = train_head(arguments.model, processor, pictures, accelerator, arguments.batch_size)
    else:
        model = AutoModelForImageClassification.from_pretrained(arguments.model)
    pictures = model_labels(pictures, model.config)
    loader = DataLoader(pictures.test, arguments.batch_size, collate_fn=collate(processor))
    apply_pitome(model, next(iter(arguments.configs.values()), 1.0))
    model, loader = accelerator.prepare_model(model.eval(), evaluation_mode=True), accelerator.prepare(loader)
    values, speeds = evaluate(model, loader, arguments.configs, accelerator, len(pictures.test))
    if accelerator.is_main_process:
        results = summarise(model, arguments.configs, values, speeds)
        title = f"{Path(str(arguments.model)).name} on {Path(arguments.dataset).name} ({len(pictures.test)} pictures)"
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        draw(results, title, arguments.output_dir / "accuracy_against_flops.png")
        report = {"title": title, "results": [asdict(result) for result in results]}
        (arguments.output_dir / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"\n{title}, {accelerator.num_processes} process(es) on {accelerator.device.type}\n{table(results)}")
        print(f"\n± half of the 95 % interval. Curve: {arguments.output_dir / 'accuracy_against_flops.png'}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
