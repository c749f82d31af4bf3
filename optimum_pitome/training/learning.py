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

"""[`RatioLearningCallback`]: ratios per layer, learned while the `Trainer` fine-tunes."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .attach import AttachedCallback
from .relaxation import RatioLearner
from .schedule import check_moment, moment_to_step, unwrap


#: File in a checkpoint with the ratios so far.
STATE_NAME = "pitome_ratios.pt"


class RatioLearningCallback(AttachedCallback):
    """Learns the ratio of every merging layer by the gradient of the training loss, under a budget of operations.

    ```python
    model = AutoModelForImageClassification.from_pretrained(path, pitome=0.9)
    trainer = Trainer(model, args, ..., callbacks=[RatioLearningCallback(flops_ratio=1.8)])
    ```

    Until `end` training steps run relaxed ([`RatioLearner`]: at full length, so nothing is saved yet), the rest with
    the learned ratios. Evaluating and saving see the real model with the ratios so far, as a plain list in its
    configuration: the learned ones, scaled until whole tokens stay within the budget. Logs gain the learned ones
    themselves (`pitome_ratio_<layer>`). A run that resumes from a checkpoint continues exactly. Not with
    `torch_compile`.

    Args:
        flops_ratio (`float`): how many times fewer operations than dense.
        end (`float` or `int`, *optional*, defaults to 0.5): when learning ends, as in [`RatioSchedule`].
        learning_rate (`float`, *optional*, defaults to 0.005): of the ratios.
        num_tokens (`int`, *optional*): sequence length for counting; the configured one by default.
    """

    def __init__(
        self,
        flops_ratio: float,
        *,
        end: float | int = 0.5,
        learning_rate: float = 0.005,
        num_tokens: int | None = None,
    ):
        check_moment("end", end)
        self.flops_ratio, self.end = flops_ratio, end
        self.learning_rate, self.num_tokens = learning_rate, num_tokens
        self.learner: RatioLearner | None = None
        self._state: dict | None = None
        self._relaxed = False

    def on_attach(self, trainer: Trainer) -> None:
        load = trainer._load_from_checkpoint

        @functools.wraps(load)
        def load_from_checkpoint(resume_from_checkpoint, model=None):
            load(resume_from_checkpoint, model)
            path = Path(resume_from_checkpoint) / STATE_NAME
            self._state = torch.load(path, weights_only=True) if path.exists() else None

        trainer._load_from_checkpoint = load_from_checkpoint

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.check_attached()
        if args.torch_compile:
            raise ValueError("RatioLearningCallback cannot run with torch_compile=True: learn first, compile later.")
        self.learner = RatioLearner(
            unwrap(model), self.flops_ratio, num_tokens=self.num_tokens, learning_rate=self.learning_rate
        )
        if self._state is not None and state.global_step:
            self.learner.load_state_dict(self._state)
        self._relaxed = True
        self._pause()

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step < moment_to_step(self.end, state.max_steps):
            self.learner.resume()
            self._relaxed = True

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self._relaxed:
            self.learner.step()

    def on_step_end(self, args, state, control, **kwargs):
        reached_end = state.global_step >= moment_to_step(self.end, state.max_steps)
        if reached_end or control.should_evaluate or control.should_save or control.should_training_stop:
            self._pause()

    def on_epoch_end(self, args, state, control, **kwargs):
        self._pause()

    on_train_end = on_epoch_end

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.learner is None or logs is None or "loss" not in logs:
            return
        ratios = self.learner.ratios.tolist()
        added = {f"pitome_ratio_{index}": round(ratio, 4) for index, ratio in zip(self.learner.budget.layers, ratios)}
        logs.update(added)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(added)

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            torch.save(self.learner.state_dict(), folder / STATE_NAME)

    def _pause(self) -> None:
        if self._relaxed:
            self.learner.finish()
            self._relaxed = False
