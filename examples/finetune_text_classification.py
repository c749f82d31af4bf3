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

from dataclasses import dataclass, field

import finetune_common
from datasets import Value
from finetune_common import Arguments, MergingArguments, label_settings
from finetune_data import load_splits, model_path
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    Trainer,
    set_seed,
)

from optimum_pitome import PiToMeConfig


@dataclass
class ScriptArguments(MergingArguments):
    model: str = field(default="minilm", metadata={"help": "Hub id, folder, or minilm (packaged)."})
    dataset: str = field(
        default="newsgroups", metadata={"help": "Hub id, or newsgroups, reuters, movie_snippets (packaged)."}
    )
    max_length: int = field(default=256, metadata={"help": "Tokens of a text; what is longer is cut."})
    max_train_samples: int | None = field(default=2000, metadata={"help": "Texts to train on."})
    max_eval_samples: int | None = field(default=1000, metadata={"help": "Texts to evaluate on."})
    dropout: float | None = field(
        default=None,
        metadata={"help": "In place of the model's. The matching sees its noise: 0 merges in training as later on."},
    )
    ratio: float = field(default=0.8, metadata={"help": "Fraction of the tokens that each merging layer keeps."})


@dataclass
class TextArguments(Arguments):
    output_dir: str | None = field(default="outputs/finetune_text_classification")
    per_device_train_batch_size: int = field(default=16)
    per_device_eval_batch_size: int = field(default=32)
    learning_rate: float = field(default=2e-4)
    logging_steps: float = field(default=10)


def main() -> None:
    script, args = HfArgumentParser((ScriptArguments, TextArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    train, test = load_splits(script.dataset, Value, script.max_train_samples, script.max_eval_samples)
    names = train.features["label"].names
    path = model_path(script.model)
    tokenizer = AutoTokenizer.from_pretrained(path)

    def tokenize(rows):
        return tokenizer(rows["input"], truncation=True, max_length=script.max_length)

    train, test = (part.map(tokenize, batched=True, remove_columns="input") for part in (train, test))
    settings = label_settings(names)
    if script.dropout is not None:
        settings.update(hidden_dropout_prob=script.dropout, attention_probs_dropout_prob=script.dropout)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, pitome=PiToMeConfig(ratio=script.ratio), **settings
    )
    trainer = Trainer(
        model,
        args,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        compute_metrics=finetune_common.accuracy,
        callbacks=[script.callback(script.max_length)],
    )
    finetune_common.train(trainer)


if __name__ == "__main__":
    main()
