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

"""What the classification examples share: dense against merged on the same batches, the table, the curve."""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled
from optimum_pitome.evaluation.metrics import Accuracy, Agreement


#: The label of a sample that has none.
UNLABELLED = -100


@dataclass
class Result:
    """One line of the table. Shares are in [0, 1]; GFLOPs are per sample and include the merge step. Without labels
    there is no accuracy."""

    ratio: float
    gflops: float
    tokens: float
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    agreement: float
    agreement_low: float
    agreement_high: float
    samples_per_second: float
    speed_up: float


def add_arguments(parser: argparse.ArgumentParser, ratios: list[float], output_dir: str) -> None:
    """The options about merging, and where the report goes."""
    parser.add_argument("--ratios", type=float, nargs="+", default=ratios)
    parser.add_argument(
        "--pitome", default="{}", help='further settings as JSON, or a JSON file: \'{"algorithm": "tome"}\''
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-samples", type=int, help="evaluate on so many samples only")
    parser.add_argument("--output-dir", type=Path, default=Path(output_dir))


def read_configs(arguments: argparse.Namespace) -> dict[float, PiToMeConfig]:
    """The settings for every ratio below 1."""
    text = arguments.pitome if arguments.pitome.lstrip().startswith("{") else Path(arguments.pitome).read_text()
    settings = json.loads(text)
    return {ratio: PiToMeConfig.from_value({**settings, "ratio": ratio}) for ratio in arguments.ratios if ratio != 1.0}


def forward(model, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Predicted classes (of each head, where there are several), and the seconds that the model took."""
    start = time.perf_counter()
    predictions = model(**inputs).logits.argmax(dim=-1)
    if predictions.device.type == "cuda":
        torch.cuda.synchronize(predictions.device)
    return predictions, time.perf_counter() - start


@torch.inference_mode()
def evaluate(
    model,
    loader,
    configs: dict[float, PiToMeConfig],
    accelerator: Accelerator,
    num_samples: int,
    unit: str,
    typical: Callable[[list[float]], float] = statistics.median,
) -> tuple[dict[float, dict[str, float]], dict[float, float]]:
    """Every batch runs dense and with every ratio, one after the other, so that a machine that slows down for a while
    slows all of them down.

    Args:
        loader: batches of the model's inputs and `labels` (`UNLABELLED` where there are none); with [`HeldOutHeads`]
            also `fold`.
        configs (`dict[float, PiToMeConfig]`): the settings of every ratio.
        unit (`str`): what the samples are, for the progress bar.
        typical (`Callable`): from the seconds of all full batches to those of one: the median where batches are alike,
            the mean where they differ in length.

    Returns:
        Per ratio (1 is the dense model): the metrics, and the samples per second of all processes together.
    """
    ratios = [1.0, *configs]
    metrics = {ratio: (Accuracy(), Agreement()) for ratio in ratios}
    seconds: dict[float, list[float]] = {ratio: [] for ratio in ratios}

    def run(ratio: float, inputs: dict[str, torch.Tensor]):
        if ratio == 1.0:
            with pitome_disabled(model):
                return forward(model, inputs)
        apply_pitome(model, configs[ratio])
        return forward(model, inputs)

    bar = tqdm(total=num_samples * len(ratios), unit=unit, disable=not accelerator.is_main_process)
    batch_size = loader.total_batch_size // accelerator.num_processes
    for step, batch in enumerate(loader):
        inputs = model_inputs(batch)
        if step == 0:
            for ratio in ratios:  # not timed: the first run allocates
                run(ratio, inputs)
        dense = None
        for ratio in ratios:
            predictions, duration = run(ratio, inputs)
            if len(predictions) == batch_size:
                seconds[ratio].append(duration)
            if "fold" in batch:
                predictions = predictions.gather(1, batch["fold"].unsqueeze(1)).squeeze(1)
            predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
            dense = predictions if dense is None else dense
            accuracy, agreement = metrics[ratio]
            accuracy.add_batch(predictions=predictions, references=labels)
            agreement.add_batch(predictions=predictions, references=dense)
            bar.update(len(predictions))
    bar.close()
    labelled = int(batch["labels"].max()) != UNLABELLED
    values = {}
    for ratio, (accuracy, agreement) in metrics.items():
        shares = accuracy.compute()
        values[ratio] = {**(shares if labelled else dict.fromkeys(shares)), **agreement.compute()}
    # A small evaluation may have no full batch: then no speed is reported.
    times = torch.tensor([typical(seconds[ratio] or [float("nan")]) for ratio in ratios])
    speeds = (batch_size / accelerator.gather(times.to(accelerator.device).unsqueeze(0))).sum(dim=0)
    return values, dict(zip(ratios, speeds.tolist()))


def results_of(values, speeds, count: Callable[[float], tuple[float, float]]) -> list[Result]:
    """One [`Result`] per ratio; `count` gives the GFLOPs of a sample and the tokens that are left for a ratio."""
    return [
        Result(ratio, *count(ratio), **values[ratio], samples_per_second=speed, speed_up=speed / speeds[1.0])
        for ratio, speed in speeds.items()
    ]


def table(results: list[Result], unit: str) -> str:
    row = "{:>6} {:>15} {:>15} {:>14} {:>7} {:>15}"
    lines = [row.format("ratio", "accuracy", "agreement", "GFLOPs", "tokens", f"{unit}s/s")]

    def share(value: float | None, low: float | None, high: float | None) -> str:
        return "" if value is None else f"{value:.1%} ±{(high - low) / 2:.1%}"

    for result in results:
        dense = result.ratio == 1.0
        accuracy = share(result.accuracy, result.accuracy_low, result.accuracy_high)
        agreement = share(result.agreement, result.agreement_low, result.agreement_high)
        gflops = f"{result.gflops:.3g} ({results[0].gflops / result.gflops:.2f}x)"
        speed = f"{result.samples_per_second:.1f} ({result.speed_up:.2f}x)"
        name, agreement = ("dense", "") if dense else (f"{result.ratio:g}", agreement)
        lines.append(row.format(name, accuracy, agreement, gflops, f"{result.tokens:.0f}", speed))
    return "\n".join(lines)


def draw(results: list[Result], title: str, unit: str, path: Path) -> None:
    """Accuracy, and agreement with the dense model, against operations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    gflops = [result.gflops for result in results]
    labelled = results[0].accuracy is not None
    for name, colour in (("accuracy", "tab:blue"), ("agreement", "tab:orange"))[0 if labelled else 1 :]:
        shown = results if name == "accuracy" else results[1:]
        share = [100 * getattr(result, name) for result in shown]
        low = [value - 100 * getattr(result, f"{name}_low") for value, result in zip(share, shown)]
        high = [100 * getattr(result, f"{name}_high") - value for value, result in zip(share, shown)]
        label = name if name == "accuracy" else "agreement with the dense model"
        axes.errorbar(gflops[-len(shown) :], share, [low, high], marker="o", capsize=3, color=colour, label=label)
    if labelled:
        axes.axhline(100 * results[0].accuracy, color="tab:blue", linestyle=":", linewidth=1)
    for result in results if labelled else results[1:]:
        text = "dense" if result.ratio == 1.0 else f"r = {result.ratio:g}"
        height = 100 * (result.accuracy if labelled else result.agreement)
        axes.annotate(text, (result.gflops, height), (0, -16), textcoords="offset points", ha="center")
    axes.set(
        xlabel=f"GFLOPs per {unit} (multiply-add = 1), merge step included",
        ylabel="% (bars: 95 % interval)",
        title=title,
    )
    axes.margins(y=0.15)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(results: list[Result], title: str, unit: str, folder: Path, accelerator: Accelerator) -> None:
    """Prints the table; writes `results.json` and the curve into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    curve = folder / "accuracy_against_flops.png"
    draw(results, title, unit, curve)
    written = {"title": title, "results": [asdict(result) for result in results]}
    (folder / "results.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    processes = f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
    print(f"\n{title}, {processes}\n{table(results, unit)}")
    print(f"\n± half of the 95 % interval. Curve: {curve}")


def label_numbers(names: list[str], config) -> list[int]:
    """The data's labels as the model numbers them: by name where all names are known to it, else by number.

    Raises:
        ValueError: if the model has another number of classes than the data, under other names.
    """
    by_name = {str(label).lower(): int(index) for index, label in config.id2label.items()}
    if all(name.lower() in by_name for name in names):
        return [by_name[name.lower()] for name in names]
    if len(names) == config.num_labels:
        return list(range(config.num_labels))
    raise ValueError(
        f"The model has {config.num_labels} classes ({', '.join(list(by_name)[:3])}, ...), the data set "
        f"{len(names)} ({', '.join(names[:3])}, ...), and their names do not match. Pass "
        "--train-head to train a head for these classes, or a model that was trained for them."
    )


def model_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch goes into the model."""
    return {name: value for name, value in batch.items() if name not in ("labels", "fold")}


@torch.inference_mode()
def fit_head(model, head: torch.nn.Linear, batches: Iterable, accelerator: Accelerator) -> None:
    """Makes `head`, a linear layer at the end of `model`, a logistic regression on the features that reach it.

    Args:
        batches: a prepared loader of the model's inputs and `labels`.
    """
    features, labels, _ = _features_at(model, head, batches, accelerator)
    _fit(head, features, labels)


@torch.inference_mode()
def fit_held_out_heads(model, head: torch.nn.Linear, batches: Iterable, accelerator: Accelerator) -> HeldOutHeads:
    """Cross-validation: one head per fold, fitted on the samples of the other folds.

    Args:
        batches: a prepared loader of the model's inputs, `labels` and `fold`.
    """
    features, labels, folds = _features_at(model, head, batches, accelerator)
    heads = [copy.deepcopy(head) for _ in range(int(folds.max()) + 1)]
    for fold, fitted in enumerate(heads):
        _fit(fitted, features[folds != fold], labels[folds != fold])
    return HeldOutHeads(heads)


class HeldOutHeads(torch.nn.Module):
    """In place of a linear head: `(B, dim)` to the logits of every fold's head, `(B, folds, classes)`."""

    def __init__(self, heads: list[torch.nn.Linear]):
        super().__init__()
        self.heads = torch.nn.ModuleList(heads)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(features) for head in self.heads], dim=1)


def _features_at(model, head: torch.nn.Linear, batches: Iterable, accelerator: Accelerator):
    """Features, labels and folds of all processes. The features are watched at the head, so this works whatever
    comes before; every process gets everybody's, and fits the same."""
    seen: list[torch.Tensor] = []
    watch = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    gathered = []
    for batch in tqdm(batches, "dense features", unit="batch", disable=not accelerator.is_main_process):
        model(**model_inputs(batch))
        fold = batch.get("fold", torch.zeros_like(batch["labels"]))
        gathered.append(accelerator.gather_for_metrics((seen.pop().float(), batch["labels"], fold)))
    watch.remove()
    return tuple(torch.cat(column).cpu() for column in zip(*gathered))


def _fit(head: torch.nn.Linear, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Logistic regression on centred features, all on one scale (stretching each one to variance 1 would blow up those
    that say little), as strongly regularised as is best on held-out parts of the same samples."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    centre, scale = features.mean(dim=0), features.std()
    features = ((features - centre) / scale).numpy()
    regression = LogisticRegression(max_iter=2000)
    if labels.unique(return_counts=True)[1].min() >= 3:
        search = GridSearchCV(regression, {"C": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]}, cv=3, refit=False)
        regression.set_params(**search.fit(features, labels.numpy()).best_params_)
    regression.fit(features, labels.numpy())
    coefficients, intercept = torch.tensor(regression.coef_), torch.tensor(regression.intercept_)
    if len(intercept) == 1:  # two classes: one score, for the second
        zero = torch.zeros_like
        coefficients, intercept = (torch.cat([zero(values), values]) for values in (coefficients, intercept))
    # Centre and scale are linear, too: they go into the weights.
    weight = coefficients / scale
    head.weight.copy_(weight)
    head.bias.copy_(intercept - weight @ centre.to(weight))
