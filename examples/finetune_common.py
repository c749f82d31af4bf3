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

"""What the two `Trainer` scripts share: options about merging, the callback, the metric, the run and its results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from optimum_pitome import PiToMeCallback


@dataclass
class MergingArguments:
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


@dataclass
class Arguments(TrainingArguments):
    """`TrainingArguments` with other defaults, for a run of minutes on a CPU."""

    warmup_steps: float = field(default=0.1)
    num_train_epochs: float = field(default=1.0)
    eval_strategy: str = field(default="epoch")
    save_strategy: str = field(default="epoch")
    save_only_model: bool = field(default=True)
    report_to: str = field(default="none")


def label_settings(names: list[str]) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for a new head over classes with these names."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "ignore_mismatched_sizes": True,
    }


def accuracy(output) -> dict[str, float]:
    """For `Trainer(compute_metrics=...)`."""
    return {"accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())}


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
