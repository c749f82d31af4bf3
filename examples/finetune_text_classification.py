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

from common import ScriptArguments, finetune, parse


@dataclass
class TextArguments(ScriptArguments):
    max_length: int = field(default=256, metadata={"help": "Tokens of a text; what is longer is cut."})
    dropout: float | None = field(
        default=None,
        metadata={"help": "In place of the model's. The matching sees its noise: 0 merges in training as later on."},
    )


def main() -> None:
    script, args = parse(
        TextArguments,
        model="minilm",
        dataset="newsgroups",
        max_train_samples=2000,
        ratio=0.8,
        output_dir="outputs/finetune_text_classification",
        per_device_train_batch_size=16,
        per_device_eval_batch_size=32,
        learning_rate=2e-4,
        logging_steps=10,
    )
    dropout = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    finetune(script, args, "text", **({} if script.dropout is None else dict.fromkeys(dropout, script.dropout)))


if __name__ == "__main__":
    main()
