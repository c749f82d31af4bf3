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

"""Fine-tunes a text classifier while it merges tokens in its first layers, with the `Trainer`.

python examples/finetune_text_classification.py --output_dir outputs/text --ratio 0.8
python examples/finetune_text_classification.py --output_dir outputs/text-dense --ratio 1.0       # to compare with
python examples/finetune_text_classification.py --dataset me/my-texts --model me/my-bert --distill
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Value
from finetune_data import load_splits, model_path
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

from optimum_pitome import PiToMeCallback, PiToMeConfig


@dataclass
class ScriptArguments:
    model: str = field(default="minilm", metadata={"help": "Hub id, folder, or minilm (packaged)."})
    dataset: str = field(
        default="newsgroups", metadata={"help": "Hub id, or newsgroups, reuters, movie_snippets (packaged)."}
    )
    max_length: int = field(default=256, metadata={"help": "Tokens of a text; what is longer is cut."})
    max_train_samples: int | None = field(default=2000, metadata={"help": "Texts to train on."})
    max_eval_samples: int | None = field(default=1000, metadata={"help": "Texts to evaluate on."})
    ratio: float = field(default=0.8, metadata={"help": "Fraction of the tokens that each merging layer keeps."})
    schedule: str = field(default="linear", metadata={"help": "constant, linear, cosine or random."})
    ratio_range: list[float] | None = field(default=None, metadata={"help": "Lowest and highest, for random."})
    eval_ratios: list[float] | None = field(default=None, metadata={"help": "Also evaluate at these ratios."})
    distill: bool = field(default=False, metadata={"help": "Add the divergence from the dense forward to the loss."})


@dataclass
class Arguments(TrainingArguments):
    """`TrainingArguments` with other defaults, for a run of minutes on a CPU."""

    output_dir: str | None = field(default="outputs/finetune_text_classification")
    per_device_train_batch_size: int = field(default=16)
    per_device_eval_batch_size: int = field(default=32)
    learning_rate: float = field(default=2e-4)
    warmup_steps: float = field(default=0.1)
    num_train_epochs: float = field(default=1.0)
    logging_steps: float = field(default=10)
    eval_strategy: str = field(default="epoch")
    save_strategy: str = field(default="epoch")
    save_only_model: bool = field(default=True)
    report_to: str = field(default="none")


def main() -> None:
    script, args = HfArgumentParser((ScriptArguments, Arguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    train, test = load_splits(script.dataset, Value, script.max_train_samples, script.max_eval_samples)
    names = train.features["label"].names
    path = model_path(script.model)
    tokenizer = AutoTokenizer.from_pretrained(path)

    def tokenize(rows):
        return tokenizer(rows["input"], truncation=True, max_length=script.max_length)

    train, test = (part.map(tokenize, batched=True, remove_columns="input") for part in (train, test))
    model = AutoModelForSequenceClassification.from_pretrained(
        path,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        ignore_mismatched_sizes=True,
        pitome=PiToMeConfig(ratio=script.ratio),
    )
    callback = PiToMeCallback(
        schedule=script.schedule,
        ratio_range=tuple(script.ratio_range) if script.ratio_range else None,
        eval_ratios=script.eval_ratios,
        distillation=script.distill,
        num_tokens=script.max_length,
    )
    trainer = Trainer(
        model,
        args,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        compute_metrics=lambda output: {"accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())},
        callbacks=[callback],
    )
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    metrics = {"train_seconds_per_step": result.metrics["train_runtime"] / trainer.state.global_step}
    for entry in trainer.state.log_history:
        metrics.update({name: value for name, value in entry.items() if name.endswith("_accuracy")})
    if trainer.is_world_process_zero():
        (Path(args.output_dir) / "results.json").write_text(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
