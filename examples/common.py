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

"""What the examples share: options about merging, evaluating and fine-tuning classifiers, the report."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset
from example_data import label_settings, load, load_parts, load_preparer, model_path, training_part, with_classes
from linear_probe import ProbeJudge
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from optimum_pitome import PiToMeCallback, PiToMeConfig, evaluate
from optimum_pitome.evaluation.columns import class_indices, find_columns
from optimum_pitome.evaluation.data import Batches, take
from optimum_pitome.evaluation.results import Evaluations


AUTO_CLASSES = {"image": AutoModelForImageClassification, "text": AutoModelForSequenceClassification}


def add_arguments(parser: argparse.ArgumentParser, ratios: list[float], output_dir: str, batch_size: int = 16) -> None:
    """The options about merging and data, and where the report goes."""
    parser.add_argument("--split", help="split to evaluate (default: test, validation, or what there is)")
    parser.add_argument("--ratios", type=float, nargs="+", default=ratios)
    parser.add_argument("--flops-ratios", type=float, nargs="+", help="budgets in their place: 1.35 1.8")
    parser.add_argument("--pitome", default="{}", help='further settings, a JSON file or JSON: {"algorithm": "tome"}')
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--max-samples", type=int, help="evaluate on so many samples only")
    parser.add_argument("--output-dir", type=Path, default=Path(output_dir))


def add_head_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of [`classify`] about a new head."""
    parser.add_argument("--train-head", action="store_true", help="train a new linear head on dense features")
    parser.add_argument("--max-train", type=int, help="train the head on so many samples only")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of a text; what is longer is cut")


def read_settings(arguments: argparse.Namespace, **defaults: Any) -> list[dict[str, Any]]:
    """The settings for every ratio, or every budget."""
    text = arguments.pitome if arguments.pitome.lstrip().startswith("{") else Path(arguments.pitome).read_text()
    name, values = ("flops_ratio", arguments.flops_ratios) if arguments.flops_ratios else ("ratio", arguments.ratios)
    return [{**defaults, **json.loads(text), name: value} for value in values]


def classify(
    arguments: argparse.Namespace, kind: str, load_headless: Callable, columns: list[str] | None = None
) -> Evaluations:
    """Evaluates a classifier of pictures or texts, or a head that is trained on dense features, and reports.

    Args:
        kind (`str`): `"image"` or `"text"`.
        load_headless (`Callable`): from a path to an encoder and the `pool` of a [`ProbeJudge`].
        columns (`list[str]`, *optional*): of the inputs; found by type.
    """
    logging.set_verbosity_error()
    # Without `cpu=True`, processes on a machine without a GPU would not find one another (accelerate 1.15).
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    settings, size = read_settings(arguments), arguments.batch_size
    processor, prepare = load_preparer(arguments.model, kind, max_length=arguments.max_length)
    dataset, split = load(arguments.dataset, arguments.split)
    test, label = take(dataset, arguments.max_samples), None
    if arguments.train_head or any(isinstance(feature, ClassLabel) for feature in test.features.values()):
        test, (*columns, label) = with_classes(test, kind, columns)
    else:
        columns = find_columns(test, kind, columns, labelled=False)
        accelerator.print(f"{arguments.dataset} has no column of class labels: agreement with the dense model only.")

    def batches_of(dataset: Dataset, config=None):
        if kind == "text":  # the longest first: the texts of a batch have nearly the same length
            lengths = [-len(ids) for ids in processor(*(list(dataset[column]) for column in columns))["input_ids"]]
            dataset = dataset.select(sorted(range(len(lengths)), key=lengths.__getitem__))
        own = own_part(dataset, size, accelerator)
        references = {}
        if label is not None:
            references["labels"] = list(own[label]) if config is None else class_indices(own, label, config)
        return Batches(own, columns, references, size, prepare)

    if arguments.train_head:
        model, pool = load_headless(arguments.model)
        judge, config = ProbeJudge(model.to(accelerator.device).eval(), pool=pool), None
        train = training_part(arguments.dataset, split)
        if train is not None:
            train, _ = with_classes(take(train, arguments.max_train), kind, columns)
            judge.fit(batches_of(train), accelerator.device)
    else:
        model = AUTO_CLASSES[kind].from_pretrained(arguments.model, pitome=False).to(accelerator.device)
        judge, config = None, model.config
    found = evaluate(
        model,
        batches_of(test, config),
        judge,
        ratios=settings,
        total=math.ceil(len(test) / size / accelerator.num_processes),
        progress=accelerator.is_local_main_process,
    )
    if accelerator.is_main_process:
        name = f"{Path(str(arguments.model)).name} on {Path(arguments.dataset).name}"
        number = f"{len(test)} {'pictures' if kind == 'image' else 'texts'}"
        report(found, f"{name} ({number}), {accelerator.num_processes} process(es)", arguments.output_dir)
    accelerator.end_training()
    return found


def own_part(dataset: Dataset, batch_size: int, accelerator: Accelerator) -> Dataset:
    """Every second batch for the first of two processes, and so on: the batches are those of one process alone."""
    number, own = accelerator.num_processes, accelerator.process_index
    return dataset.select([row for row in range(len(dataset)) if row // batch_size % number == own])


def report(found: Evaluations, title: str, folder: Path) -> None:
    """Prints the table; writes `results.json` and the plot into `folder`."""
    plot = folder / "accuracy_against_flops.png"
    found.to_json(folder / "results.json")
    found.plot(plot, title)
    print(f"\n{title}\n{found}\n\nPlot: {plot}")


@dataclass
class ScriptArguments:
    model: str = field(default="", metadata={"help": "Hub id, folder, dinov2_small or minilm (packaged)."})
    dataset: str = field(default="", metadata={"help": "Hub id, folder, or a packaged data set (example_data.py)."})
    max_train_samples: int | None = field(default=1000, metadata={"help": "Samples to train on."})
    max_eval_samples: int | None = field(default=1000, metadata={"help": "Samples to evaluate on."})
    ratio: float = field(default=0.9, metadata={"help": "Fraction of the tokens that each layer keeps in the end."})
    schedule: str = field(default="linear", metadata={"help": "constant, linear, cosine or random."})
    start: float = field(
        default=0.0, metadata={"help": "Of linear and cosine: from where on, as a share of the steps."}
    )
    end: float = field(default=0.5, metadata={"help": "Of linear and cosine: where the ratio is reached."})
    ratio_range: list[float] | None = field(default=None, metadata={"help": "Lowest and highest, for random."})
    eval_ratios: list[float] | None = field(default=None, metadata={"help": "Also evaluate at these ratios."})
    distill: bool = field(default=False, metadata={"help": "Add the divergence from the dense forward to the loss."})

    def callback(self, num_tokens: int) -> PiToMeCallback:
        """The callback for sequences of `num_tokens`."""
        settings = {name: getattr(self, name) for name in ("schedule", "start", "end", "eval_ratios")}
        ratio_range = tuple(self.ratio_range) if self.ratio_range else None
        return PiToMeCallback(**settings, ratio_range=ratio_range, distillation=self.distill, num_tokens=num_tokens)


def parse(script_class: type[ScriptArguments], **defaults: Any) -> tuple[ScriptArguments, TrainingArguments]:
    """The options of a script, and those of the `Trainer`; by default for a run of minutes on a CPU."""
    parser = HfArgumentParser((script_class, TrainingArguments))
    settings = {"warmup_steps": 0.1, "num_train_epochs": 1.0, "save_only_model": True, "report_to": "none"}
    settings |= {"eval_strategy": "epoch", "save_strategy": "epoch", "remove_unused_columns": False}
    parser.set_defaults(**settings, **defaults)
    return parser.parse_args_into_dataclasses()


def collate_with(prepare: Callable) -> Callable[[list[dict]], dict[str, torch.Tensor]]:
    """For a `DataLoader`: batches of what `load_parts` gives, with `prepare` from `load_preparer`."""
    return lambda rows: {
        **prepare([row["input"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def finetune(script: ScriptArguments, args: TrainingArguments, kind: str, groups: Callable | None = None, **settings):
    """Fine-tunes a classifier with the `Trainer`.

    Args:
        kind (`str`): `"image"` or `"text"`.
        groups (`Callable`, *optional*): from the model to the optimizer's groups of parameters.
        settings: further keyword arguments of `from_pretrained`.
    """
    set_seed(args.seed)
    train_part, test_part = load_parts(script.dataset, kind, script.max_train_samples, script.max_eval_samples)
    path, side, length = (model_path(script.model), *(getattr(script, n, None) for n in ("image_size", "max_length")))
    processor, prepare = load_preparer(path, kind, side, length)
    settings |= label_settings(train_part.features["label"].names)
    model = AUTO_CLASSES[kind].from_pretrained(path, pitome=PiToMeConfig(ratio=script.ratio), **settings)
    optimizer = None if groups is None else torch.optim.AdamW(groups(model), weight_decay=0.01)
    trainer = Trainer(
        model,
        args,
        optimizers=(optimizer, None),
        data_collator=collate_with(prepare),
        train_dataset=train_part,
        eval_dataset=test_part,
        processing_class=processor,
        compute_metrics=lambda out: {"accuracy": float((out.predictions.argmax(-1) == out.label_ids).mean())},
        callbacks=[script.callback(length or 1 + (side // model.config.patch_size) ** 2)],
    )
    train(trainer)


def train(trainer: Trainer) -> None:
    """Trains (or resumes), saves, and writes `results.json`: the last accuracies and the seconds per step."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    seconds, metrics = result.metrics["train_runtime"], {}
    for entry in trainer.state.log_history:
        metrics.update({name: value for name, value in entry.items() if name.endswith("_accuracy")})
        # The evaluations between the steps are part of what the Trainer calls its running time.
        seconds -= sum(value for name, value in entry.items() if name.startswith("eval") and name.endswith("_runtime"))
    metrics["train_seconds_per_step"] = seconds / trainer.state.global_step
    if trainer.is_world_process_zero():
        (Path(trainer.args.output_dir) / "results.json").write_text(json.dumps(metrics, indent=2))
