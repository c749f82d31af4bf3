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

"""Every change to transformers' `Trainer`.

The class tells callbacks of this package which trainer they belong to: transformers gives callbacks the model and the
metrics, but no trainer. A trainer that has one is changed itself, whatever its class replaces.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..cards.card import write_section
from ..modeling.parts import settings_of
from ..modeling.wrap import wrap
from .distillation import DenseDistillation


logger = logging.get_logger(__name__)


def attach_callbacks(callback_class: type[TrainerCallback]) -> None:
    """Lets every `Trainer` call `attach` of the callbacks of `callback_class` that it is given."""

    def attaching(original: Callable) -> Callable:
        def method(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            for callback in list(self.callback_handler.callbacks):
                if isinstance(callback, callback_class):
                    callback.attach(self)
            return result

        return method

    for name in ("__init__", "add_callback"):
        wrap(Trainer, name, attaching)


def change_trainer(trainer: Trainer, distillation: DenseDistillation | None) -> None:
    """Makes all the changes to one trainer; a second time nothing happens."""

    def after(name: str, then: Callable[..., None]) -> None:
        def make(original: Callable) -> Callable:
            def method(*args, **kwargs):
                result = original(*args, **kwargs)
                then(*args, **kwargs)
                return result

            return method

        if hasattr(trainer, name):  # some are transformers' own affair
            wrap(trainer, name, make)

    def load(folder: str | os.PathLike) -> None:
        load_renamed(trainer.model, folder)

    after("save_model", lambda output_dir=None, *args, **kwargs: _write_section(trainer, output_dir))
    after("create_model_card", lambda *args, **kwargs: _write_section(trainer))
    after("_load_from_checkpoint", lambda resume_from_checkpoint, *args, **kwargs: load(resume_from_checkpoint))
    after("_load_best_model", lambda *args, **kwargs: load(trainer.state.best_model_checkpoint))
    if distillation is not None:
        wrap(trainer, "compute_loss", lambda original: _distilled(trainer, distillation, original))


def _write_section(trainer: Trainer, folder: str | None = None) -> None:
    """Says in the card of `folder` how the model merges: the cards that `Trainer` and PEFT write do not."""
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = getattr(model, "get_base_model", lambda: model)()  # below an adapter
    settings = settings_of(model)
    settings = {} if settings is None else settings.to_pitome_dict()
    name = type(model).__name__.removeprefix("FSDP")  # FSDP2 gives a model a class of its own
    write_section(folder or trainer.args.output_dir, settings, auto_class=name)


def _distilled(trainer: Trainer, distillation: DenseDistillation, compute_loss: Callable) -> Callable:
    """Puts the divergence into the training loss."""

    def distilled(model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:
            return compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        inputs = distillation.prepare(inputs)
        loss, outputs = compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        divergence = distillation(model, inputs, outputs)
        if _is_scaled(trainer, num_items_in_batch):
            divergence = divergence / trainer.current_gradient_accumulation_steps
        loss = loss + divergence
        return (loss, outputs) if return_outputs else loss

    return distilled


def _is_scaled(trainer: Trainer, num_items_in_batch: Any) -> bool:
    """Whether the loss is a mean over all accumulated batches, so that the trainer does not divide it again."""
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    if said is not None:
        return said
    by_the_model = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
    return by_the_model or trainer.compute_loss_func is not None


def load_renamed(model: nn.Module, folder: str | os.PathLike) -> bool:
    """Loads the weights in `folder` into `model` if they have other names there; returns whether they had.

    transformers 5 saves renamed modules (ViT, DINOv2, ...) under their old names and translates them in
    `from_pretrained`. `Trainer` reads the file without translating: resuming, and loading the best model at the end,
    then leave the weights as they are, with a warning. (So in 5.13 to 5.24, without this package, too.)
    """
    path = os.path.join(folder, SAFE_WEIGHTS_NAME)
    if not isinstance(model, PreTrainedModel) or not os.path.isfile(path):
        return False
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    if names <= model.state_dict().keys():
        return False
    translated = type(model).from_pretrained(folder, pitome=False, dtype=model.dtype)
    model.load_state_dict(translated.state_dict())
    logger.warning(
        f"The weights in {folder} have other names than the model's, so transformers called them missing or "
        "unexpected. PiToMeCallback translated and loaded them: nothing is missing."
    )
    return True
