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

"""What the fine-tuning scripts share: options about merging, the run and its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from example_data import label_settings, load_parts, load_preparer, model_path
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

from optimum_pitome import PiToMeCallback, PiToMeConfig


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
        return PiToMeCallback(
            schedule=self.schedule,
            start=self.start,
            end=self.end,
            ratio_range=tuple(self.ratio_range) if self.ratio_range else None,
            eval_ratios=self.eval_ratios,
            distillation=self.distill,
            num_tokens=num_tokens,
        )


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
    auto_class = AutoModelForImageClassification if kind == "image" else AutoModelForSequenceClassification
    settings |= label_settings(train_part.features["label"].names)
    model = auto_class.from_pretrained(path, pitome=PiToMeConfig(ratio=script.ratio), **settings)
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
