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

"""[`PiToMeCallback`]: merge-aware fine-tuning with the transformers `Trainer`."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics
from transformers.utils import logging

from ..analysis import pitome_summary
from ..apply import apply_pitome, rewritten_encoders
from ..configuration.checks import check_choice, check_number
from ..configuration.config import PiToMeConfig
from ..configuration.fields import MIN_RATIO
from .distillation import DenseDistillation
from .schedule import RatioSchedule, RatioScheduler, unwrap, with_ratio
from .trainer import attach_callbacks, change_trainer


logger = logging.get_logger(__name__)

_SCHEDULE_ARGUMENTS = tuple(f.name for f in dataclasses.fields(RatioSchedule) if f.name not in ("kind", "seed"))


class PiToMeCallback(TrainerCallback):
    """Fine-tunes a model while it merges tokens.

    ```python
    trainer = Trainer(model, args, ..., callbacks=[PiToMeCallback(0.9, eval_ratios=[1.0, 0.8])])
    trainer.train()
    ```

    Training steps use the ratio of the schedule. Everything between them (evaluating, saving) sees the target:
    `eval_*` metrics of a run can be compared with one another, and every checkpoint's `config.json` and card have the
    final settings. The ratio is a function of the step, so a run that resumes from a checkpoint continues exactly.
    Logs gain `pitome_ratio` (of the step that was logged), `pitome_tokens` (after the last layer), and
    `pitome_gflops_saved` (per sample and forward).

    Under FSDP the model must be rewritten when it is given to the `Trainer` (`from_pretrained(..., pitome=...)`); with
    anything else a dense one will do. With `torch_compile=True` every ratio is compiled once: see `levels`.

    Args:
        config ([`PiToMeConfig`], `dict` or `float`, *optional*): the target. `None`: what the model is set to.
        schedule (`str` or [`RatioSchedule`], *optional*, defaults to `"linear"`):
            `"constant"`, `"linear"`, `"cosine"`, `"stepped"` or `"random"`, with the arguments of [`RatioSchedule`].
        start, end, levels, milestones, ratio_range, seed (*optional*):
            See [`RatioSchedule`]; `seed` defaults to that of the training arguments.
        eval_ratios (`float` or `list[float]`, *optional*):
            Ratios at which every evaluation is repeated. Their metrics join the others with the ratio in the name
            (`eval_r0.8_accuracy`), where `metric_for_best_model` and early stopping find them.
        distillation ([`DenseDistillation`] or `bool`, *optional*): adds its divergence to the training loss.
        num_tokens (`int`, *optional*):
            Sequence length of the logged tokens and operations; the model's configured one by default.

    Raises:
        ValueError: for a value out of range, or settings that do not fit the model.
    """

    def __init__(
        self,
        config: Any = None,
        schedule: str | RatioSchedule = "linear",
        *,
        eval_ratios: float | list[float] | None = None,
        distillation: DenseDistillation | bool | None = None,
        num_tokens: int | None = None,
        seed: int | None = None,
        **schedule_arguments: Any,
    ):
        self.config = PiToMeConfig.from_value(config)
        for name in schedule_arguments:
            check_choice("argument of PiToMeCallback", name, _SCHEDULE_ARGUMENTS)
        if isinstance(schedule, RatioSchedule):
            if schedule_arguments or seed is not None:
                given = ", ".join([*schedule_arguments, *(["seed"] if seed is not None else [])])
                raise ValueError(f"{given}: give schedule a name, or set them in the RatioSchedule that you pass.")
            self._make_schedule = lambda default_seed: schedule
        else:
            self._make_schedule = lambda default_seed: RatioSchedule(
                schedule, seed=default_seed if seed is None else seed, **schedule_arguments
            )
        self._make_schedule(0)  # an error shows here, not in the first step
        if not isinstance(eval_ratios, (list, tuple)):
            eval_ratios = [] if eval_ratios is None else [eval_ratios]
        checked = check_number("eval_ratios", eval_ratios, MIN_RATIO, 1.0, listable=True) if eval_ratios else []
        self.eval_ratios = list(dict.fromkeys(checked))
        if not isinstance(distillation, (bool, DenseDistillation, type(None))):
            raise ValueError(f"distillation={distillation!r}: expected True, False, or DenseDistillation(weight=...).")
        self.distillation = DenseDistillation() if distillation is True else distillation or None
        self.num_tokens = num_tokens
        self.trainer: Trainer | None = None
        self.scheduler: RatioScheduler | None = None
        self._step_config: PiToMeConfig | None = None
        self._savings: dict[str, dict[str, float]] = {}

    def attach(self, trainer: Trainer) -> None:
        """Ties the callback to its trainer. `Trainer` does this by itself for the callbacks that it is given."""
        if self.trainer is trainer:
            return
        self.trainer, self.scheduler = trainer, None
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            # Reporting integrations come before a user's callbacks: they would miss what this one adds to the logs.
            # The first callback decides when to log, evaluate and save.
            callbacks.remove(self)
            callbacks.insert(min(1, len(callbacks)), self)
        if self.config is not None and trainer.model is not None:
            # Before anything wraps the model: over FSDP's wrapping it could not be rewritten.
            apply_pitome(unwrap(trainer.model), self.config)
        change_trainer(trainer, self.distillation)

    def _check_attached(self) -> None:
        if self.trainer is None:
            raise ValueError(
                "PiToMeCallback does not know its Trainer. Pass it as Trainer(callbacks=[callback]), or call "
                "callback.attach(trainer)."
            )
        if sum(isinstance(other, PiToMeCallback) for other in self.trainer.callback_handler.callbacks) > 1:
            raise ValueError("Two PiToMeCallbacks of one Trainer would each set the ratios. Keep one of them.")

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._check_attached()
        schedule, self._savings = self._make_schedule(args.seed), {}
        self.scheduler = RatioScheduler(model, self.config, num_training_steps=state.max_steps, schedule=schedule)
        for ratio in self.eval_ratios:
            with_ratio(self.scheduler.target, ratio)
        if args.torch_compile:
            others = 1 + len(self.eval_ratios) + (self.distillation is not None)
            _warn_of_recompilations(schedule, self.scheduler.target, state.max_steps, others)

    def on_step_begin(self, args, state, control, **kwargs):
        self._step_config = self.scheduler.set_step(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.scheduler.finish()

    # An epoch that ends early, or a loop that is left by an exception's handler, ends between the two above.
    on_epoch_end = on_train_end = on_step_end

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        if self._step_config is None or logs is None or "loss" not in logs:
            return
        added = self._savings_at(self._step_config)
        logs.update(added)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(added)

    def on_evaluate(self, args, state, control, metrics=None, eval_dataloader=None, **kwargs):
        if not self.eval_ratios or metrics is None:
            return
        prefix = next((key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")), "eval")
        scheduler = self.scheduler
        if scheduler is None:  # trainer.evaluate() without training
            scheduler = RatioScheduler(self.trainer.model, self.config, num_training_steps=1)
        for ratio in self.eval_ratios:
            with scheduler.at(ratio):
                found = self._evaluate(eval_dataloader, f"{prefix}_r{ratio:g}")
            self.trainer.log(found)
            metrics.update(found)

    def _evaluate(self, dataloader: Any, prefix: str) -> dict[str, float]:
        # Not trainer.evaluate(): every callback would take it for another evaluation (early stopping counts them).
        trainer, started = self.trainer, time.time()
        output = trainer.evaluation_loop(
            dataloader,
            description=f"Evaluation ({prefix})",
            prediction_loss_only=True if trainer.compute_metrics is None else None,
            metric_key_prefix=prefix,
        )
        return {**output.metrics, **speed_metrics(prefix, started, num_samples=output.num_samples)}

    def _savings_at(self, config: PiToMeConfig) -> dict[str, float]:
        key = repr(config.to_pitome_dict())
        if key not in self._savings:
            self._savings[key] = _count_savings(self.scheduler, config, self.num_tokens)
        return self._savings[key]


attach_callbacks(PiToMeCallback)


def _count_savings(scheduler: RatioScheduler, config: PiToMeConfig, num_tokens: int | None) -> dict[str, float]:
    before = scheduler.current
    scheduler.set_config(config)
    try:
        ratios = [spec.ratio for encoder in rewritten_encoders(scheduler.model) for spec in encoder.pitome.specs]
        kept = [ratio.kept for ratio in ratios if not ratio.is_dense]
        found = {"pitome_ratio": round(sum(kept) / len(kept), 6) if kept else 1.0}
        summary = pitome_summary(scheduler.model, num_tokens)
    except ValueError as error:  # no default sequence length
        logger.info(f"The logs have no tokens and operations: {error}")
        return found
    finally:
        scheduler.set_config(before)
    saved = summary.gflops_dense - summary.gflops_merged - summary.gflops_merge_step
    return {**found, "pitome_tokens": summary.tokens[-1], "pitome_gflops_saved": round(saved, 6)}


def _warn_of_recompilations(schedule: RatioSchedule, target: PiToMeConfig, num_steps: int, others: int) -> None:
    ratios = {
        repr(schedule.config_at(step, num_steps, target).to_pitome_dict()) for step in range(min(num_steps, 10_000))
    }
    expected, limit = len(ratios) + others, torch._dynamo.config.recompile_limit
    if expected > limit:
        logger.warning(
            f"With torch_compile=True this schedule compiles {expected} graphs, one for each ratio in training and in "
            f"evaluation; after the first {limit} torch runs uncompiled. Use fewer levels or eval_ratios, or set "
            f"torch._dynamo.config.recompile_limit = {expected}."
        )
