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

from common import ScriptArguments, finetune, parse


@dataclass
class ImageArguments(ScriptArguments):
    image_size: int = field(default=112, metadata={"help": "Side of the pictures in pixels."})
    head_learning_rate: float = field(default=2e-3, metadata={"help": "Learning rate of the new head."})


def main() -> None:
    script, args = parse(
        ImageArguments,
        model="dinov2_small",
        dataset="fashion_mnist",
        output_dir="outputs/finetune_image_classification",
        per_device_train_batch_size=8,
        per_device_eval_batch_size=50,
        learning_rate=2e-5,
        logging_steps=5,
    )

    def groups(model) -> list[dict]:
        head = list(model.get_submodule("classifier").parameters())
        body = [parameter for parameter in model.parameters() if all(parameter is not other for other in head)]
        return [{"params": body, "lr": args.learning_rate}, {"params": head, "lr": script.head_learning_rate}]

    finetune(script, args, "image", groups)


if __name__ == "__main__":
    main()
