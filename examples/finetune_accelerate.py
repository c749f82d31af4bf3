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

"""Fine-tunes an image classifier while it merges tokens, in a bare Accelerate loop.

    python examples/finetune_accelerate.py --ratio 0.9
    accelerate launch --multi_gpu --num_processes 2 examples/finetune_accelerate.py     # DDP; without a GPU on the CPU
    accelerate launch --config_file examples/accelerate_configs/fsdp2.yaml examples/finetune_accelerate.py

What merging adds to an ordinary loop is marked below; `pitome=` comes before `prepare` wraps the model.
`--batch_size` counts the pictures of all processes, so any number of them computes the same losses.
`accelerate_configs/deepspeed_zero2.yaml` configures DeepSpeed ZeRO; that was not run, since no GPU was at hand.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from common import collate_with
from example_data import label_settings, load_parts, load_preparer, model_path
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForImageClassification, get_linear_schedule_with_warmup

from optimum_pitome import DenseDistillation, RatioSchedule, RatioScheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dinov2_small", help="Hub id, folder, or dinov2_small (packaged)")
    parser.add_argument("--dataset", default="fashion_mnist", help="Hub id, folder, or fashion_mnist (packaged)")
    parser.add_argument("--image_size", type=int, default=112, help="side of the pictures in pixels")
    parser.add_argument("--max_train_samples", type=int, default=1000)
    parser.add_argument("--max_eval_samples", type=int, default=1000)
    parser.add_argument("--ratio", type=float, default=0.9, help="fraction of the tokens that each layer keeps")
    parser.add_argument("--distill", action="store_true", help="add the divergence from the dense forward to the loss")
    parser.add_argument("--batch_size", type=int, default=16, help="pictures per forward, of all processes together")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--num_epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="outputs/finetune_accelerate")
    args = parser.parse_args()
    accelerator = Accelerator(
        # Without `cpu=True`, processes on a machine without a GPU would not find one another (accelerate 1.15).
        cpu=not torch.accelerator.is_available(),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        # The same order of the same batches for any number of processes.
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True),
    )
    set_seed(args.seed)
    train, test = load_parts(args.dataset, "image", args.max_train_samples, args.max_eval_samples)
    processor, prepare = load_preparer(model_path(args.model), "image", args.image_size)
    model = AutoModelForImageClassification.from_pretrained(
        model_path(args.model),
        **label_settings(train.features["label"].names),
        pitome=args.ratio,  # merging
    )
    collate = collate_with(prepare)
    train_loader = DataLoader(train, args.batch_size, shuffle=True, collate_fn=collate, drop_last=True)
    test_loader = DataLoader(test, args.batch_size, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    num_steps = args.num_epochs * math.ceil(len(train_loader) / args.gradient_accumulation_steps)
    lr_scheduler = get_linear_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
    ratios = RatioScheduler(model, num_training_steps=num_steps, schedule=RatioSchedule("linear"))  # merging
    distillation = DenseDistillation() if args.distill else None
    model, optimizer, train_loader, test_loader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_loader, test_loader, lr_scheduler
    )

    losses, micro_losses = [], []
    progress = tqdm(total=num_steps, disable=not accelerator.is_local_main_process)
    for _ in range(args.num_epochs):
        model.train()
        for batch in train_loader:
            with accelerator.accumulate(model):
                ratios.set_step(len(losses))  # merging
                outputs = model(**batch)
                loss = outputs.loss
                if distillation is not None:
                    loss = loss + distillation(model, batch, outputs)
                accelerator.backward(loss)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            micro_losses.append(accelerator.reduce(loss.detach(), reduction="mean").item())
            if accelerator.sync_gradients:
                losses.append(sum(micro_losses) / len(micro_losses))
                micro_losses = []
                progress.update()
                progress.set_postfix(loss=f"{losses[-1]:.4f}", ratio=ratios.current.ratio)
    progress.close()

    ratios.finish()  # merging: the target, for evaluating and saving
    model.eval()
    right = total = 0
    for batch in tqdm(test_loader, disable=not accelerator.is_local_main_process):
        with torch.no_grad():
            predictions = model(pixel_values=batch["pixel_values"]).logits.argmax(-1)
        predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
        right, total = right + (predictions == labels).sum().item(), total + len(labels)
    weights = accelerator.get_state_dict(model)
    accelerator.unwrap_model(model).save_pretrained(
        args.output_dir, state_dict=weights, is_main_process=accelerator.is_main_process
    )
    if accelerator.is_main_process:
        processor.save_pretrained(args.output_dir)
        results = {
            "accuracy": right / total,
            "losses": losses,
            "ratio": args.ratio,
            "processes": accelerator.num_processes,
            "distributed_type": accelerator.distributed_type.value,
        }
        (Path(args.output_dir) / "results.json").write_text(json.dumps(results, indent=2))
    accelerator.end_training()


if __name__ == "__main__":
    main()
