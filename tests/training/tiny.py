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

"""A tiny classifier and a task that it can learn, for the tests of training."""

import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, Trainer, TrainerCallback, TrainingArguments, ViTForImageClassification
from zoo.vit import vit_config


needs_image_processors = pytest.mark.skipif(
    "from_pretrained" not in vars(AutoImageProcessor),
    reason="this transformers has no AutoImageProcessor without torchvision",
)


class Pictures(Dataset):
    """Noise with a bright third: the class says which. The same pictures every time."""

    def __init__(self, size: int = 32, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(3, (size,), generator=generator)
        self.pixels = torch.randn(size, 3, 32, 32, generator=generator)
        for pixels, label in zip(self.pixels, self.labels.tolist()):
            pixels[label] += 1.0

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def tiny_vit(**settings) -> ViTForImageClassification:
    torch.manual_seed(0)
    config = vit_config()
    for name, value in settings.items():
        setattr(config, name, value)
    return ViTForImageClassification(config)


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


#: Newer transformers call it activation checkpointing; the old names warn.
_CHECKPOINTING = "activation" if "activation_checkpointing" in TrainingArguments.__dataclass_fields__ else "gradient"


def checkpointing(**kwargs) -> dict:
    """Arguments that switch activation checkpointing on."""
    return {f"{_CHECKPOINTING}_checkpointing": True, f"{_CHECKPOINTING}_checkpointing_kwargs": kwargs}


def make_trainer(folder, *callbacks, model=None, trainer_class=Trainer, **settings) -> Trainer:
    """Eight steps over 32 pictures, every step logged, unless `settings` (of `TrainingArguments`) say otherwise."""
    arguments = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
        **settings,
    }
    return trainer_class(
        model=tiny_vit() if model is None else model,
        args=TrainingArguments(str(folder), **arguments),
        train_dataset=Pictures(),
        eval_dataset=Pictures(16, seed=1),
        compute_metrics=accuracy,
        callbacks=list(callbacks),
    )


def history(trainer, name) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


#: The ratios of its steps with the default schedule and the target 0.8.
LINEAR = [1.0, 0.95, 0.9, 0.85, 0.8, 0.8, 0.8, 0.8]


class Recorder(TrainerCallback):
    """Where the model stands in every step, and what other callbacks see."""

    def __init__(self):
        self.ratios, self.logged, self.evaluations = [], [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.ratios.append(base.config.pitome["ratio"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logged.append(dict(logs))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.evaluations.append(dict(metrics))


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
