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

"""What `test_distributed.py` runs in its own process, and in two (as a script, under torchrun)."""

import json
import sys
from pathlib import Path

import torch
from training.tiny import Pictures, history, make_trainer, tiny_vit

from optimum_pitome import DenseDistillation, PiToMeCallback, RatioScheduler, apply_pitome


NUM_STEPS = 4
LAYER = "ViTLayer"


def run_trainer(folder, num_processes: int) -> dict:
    """The Trainer: DDP where there are several processes."""
    callback = PiToMeCallback(0.8, eval_ratios=[1.0], distillation=True)
    trainer = make_trainer(folder, callback, per_device_train_batch_size=4 // num_processes)
    trainer.train()
    metrics = trainer.evaluate()
    found = {name: history(trainer, name) for name in ("loss", "grad_norm", "pitome_ratio")}
    return {**found, "evaluation": [metrics["eval_loss"], metrics["eval_r1_loss"]]}


def run_loop(accelerator=None) -> dict:
    """A bare loop: FSDP2 if `accelerator` is set to it."""
    model = apply_pitome(tiny_vit(), 0.8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scheduler = RatioScheduler(model, num_training_steps=NUM_STEPS)
    rank, num_processes = 0, 1
    if accelerator is not None:
        model, optimizer = accelerator.prepare(model, optimizer)
        rank, num_processes = accelerator.process_index, accelerator.num_processes
    data, distillation = Pictures(), DenseDistillation(features="cosine")
    losses, ratios = [], []
    for step in range(NUM_STEPS):
        ratios.append(scheduler.set_step(step).ratio)
        own = torch.arange(8 * step, 8 * step + 8).chunk(num_processes)[rank]
        inputs = {"pixel_values": data.pixels[own], "labels": data.labels[own]}
        outputs = model(**distillation.prepare(inputs))
        loss = outputs.loss + distillation(model, inputs, outputs)
        loss.backward() if accelerator is None else accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.detach()
        losses.append((loss if accelerator is None else accelerator.reduce(loss, "mean")).item())
    scheduler.finish()
    weights = [weight.full_tensor() if hasattr(weight, "full_tensor") else weight for weight in model.parameters()]
    found = {
        "losses": losses,
        "ratios": ratios,
        "weights": [weight.norm().item() for weight in weights],
        "saved": model.config.pitome,
    }
    return {**found, "layer": type(model.vit.layers[0]).__name__}


def fsdp2_accelerator():
    """Accelerate leaves FSDP off on a CPU, where torch can do it. Here it is told that it is on."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    accelerator = Accelerator(cpu=True)
    # Named: of ViT's own _no_split_modules, accelerate 1.15 would shard the embeddings twice, merging or not.
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[LAYER],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def main(folder: str) -> None:
    found = {"trainer": run_trainer(folder, num_processes=2), "fsdp2": run_loop(fsdp2_accelerator())}
    if torch.distributed.get_rank() == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
