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

"""Callbacks that know their `Trainer`. transformers gives callbacks the model and the metrics, but no trainer."""

from __future__ import annotations

import functools

from transformers import Trainer, TrainerCallback

from .card import describe_adapters
from .resume import repair_loading


class AttachedCallback(TrainerCallback):
    """A callback with a `trainer`, once that has been made with it, or has been given it by `add_callback`."""

    trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> None:
        """Ties the callback to its trainer. `Trainer` does this by itself for the callbacks that it is given."""
        if self.trainer is trainer:
            return
        self.trainer = trainer
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            # Reporting integrations come before a user's callbacks: they would miss what this one adds to the logs.
            # The first callback decides when to log, evaluate and save.
            callbacks.remove(self)
            callbacks.insert(min(1, len(callbacks)), self)
        repair_loading(trainer)
        describe_adapters(trainer)
        self.on_attach(trainer)

    def on_attach(self, trainer: Trainer) -> None:
        """For what is to be changed on the trainer itself."""

    def check_attached(self) -> None:
        """
        Raises:
            ValueError: if there is no trainer, or two callbacks that set the ratios.
        """
        if self.trainer is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} does not know its Trainer. Pass it as Trainer(callbacks=[callback]), or call "
                "callback.attach(trainer)."
            )
        others = [other for other in self.trainer.callback_handler.callbacks if isinstance(other, AttachedCallback)]
        if len(others) > 1:
            names = " and ".join(type(other).__name__ for other in others)
            raise ValueError(f"{names} of one Trainer would each set the ratios. Keep one of them.")


def _attach_callbacks(trainer_class: type[Trainer]) -> None:
    def wrap(name: str) -> None:
        original = vars(trainer_class)[name]

        @functools.wraps(original)
        def method(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            for callback in list(self.callback_handler.callbacks):
                if isinstance(callback, AttachedCallback):
                    callback.attach(self)
            return result

        setattr(trainer_class, name, method)

    wrap("__init__")
    wrap("add_callback")


_attach_callbacks(Trainer)
