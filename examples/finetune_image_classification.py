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

"""Fine-tunes an image classifier while it merges tokens, with the `Trainer`.

python examples/finetune_image_classification.py --output_dir outputs/finetune --ratio 0.9
python examples/finetune_image_classification.py --output_dir outputs/dense --ratio 1.0       # to compare with
python examples/finetune_image_classification.py --output_dir outputs/many --schedule random --ratio_range 0.8 1.0
accelerate launch --multi_gpu --num_processes 2 examples/finetune_image_classification.py ...  # DDP; FSDP2 and
                                            # DeepSpeed by the configuration files in examples/accelerate_configs
"""

from __future__ import annotations

from dataclasses import dataclass, field

import finetune_common
import torch
from datasets import Image
from finetune_common import Arguments, MergingArguments, label_settings
from finetune_data import load_image_processor, load_splits, model_path
from transformers import (
    AutoModelForImageClassification,
    HfArgumentParser,
    Trainer,
    set_seed,
)

from optimum_pitome import PiToMeConfig


@dataclass
class ScriptArguments(MergingArguments):
    model: str = field(default="dinov2_small", metadata={"help": "Hub id, folder, or dinov2_small (packaged)."})
    dataset: str = field(default="fashion_mnist", metadata={"help": "Hub id, folder, or fashion_mnist (packaged)."})
    image_size: int = field(default=112, metadata={"help": "Side of the pictures in pixels."})
    max_train_samples: int | None = field(default=1000, metadata={"help": "Pictures to train on."})
    max_eval_samples: int | None = field(default=1000, metadata={"help": "Pictures to evaluate on."})
    ratio: float = field(default=0.9, metadata={"help": "Fraction of the tokens that each layer keeps in the end."})
    head_learning_rate: float = field(default=2e-3, metadata={"help": "Learning rate of the new head."})


@dataclass
class ImageArguments(Arguments):
    output_dir: str | None = field(default="outputs/finetune_image_classification")
    per_device_train_batch_size: int = field(default=8)
    per_device_eval_batch_size: int = field(default=50)
    learning_rate: float = field(default=2e-5)
    logging_steps: float = field(default=5)
    remove_unused_columns: bool = field(default=False)


def main() -> None:
    script, args = HfArgumentParser((ScriptArguments, ImageArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    train, test = load_splits(script.dataset, Image, script.max_train_samples, script.max_eval_samples)
    names = train.features["label"].names
    path = model_path(script.model)
    side = script.image_size
    processor = load_image_processor(path, side)
    model = AutoModelForImageClassification.from_pretrained(
        path, pitome=PiToMeConfig(ratio=script.ratio), **label_settings(names)
    )

    def collate(rows):
        pictures = [row["input"].convert("RGB") for row in rows]
        labels = torch.tensor([row["label"] for row in rows])
        return {"pixel_values": processor(pictures, return_tensors="pt")["pixel_values"], "labels": labels}

    head = list(model.get_submodule("classifier").parameters())
    body = [parameter for parameter in model.parameters() if all(parameter is not other for other in head)]
    groups = [{"params": body, "lr": args.learning_rate}, {"params": head, "lr": script.head_learning_rate}]
    trainer = Trainer(
        model,
        args,
        optimizers=(torch.optim.AdamW(groups, weight_decay=0.01), None),
        data_collator=collate,
        train_dataset=train,
        eval_dataset=test,
        processing_class=processor,
        compute_metrics=finetune_common.accuracy,
        callbacks=[script.callback(1 + (side // model.config.patch_size) ** 2)],
    )
    finetune_common.train(trainer)


if __name__ == "__main__":
    main()
