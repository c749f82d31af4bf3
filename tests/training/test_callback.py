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

"""`PiToMeCallback` with the Trainer."""

import pytest
import torch
from training.tiny import LINEAR, Pictures, Recorder, checkpointing, history, make_trainer, tiny_vit, weights_of
from transformers import EarlyStoppingCallback

from optimum_pitome import DenseDistillation, PiToMeCallback, RatioSchedule, apply_pitome, pitome_summary


def test_linear_annealing(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, recorder, PiToMeCallback(0.8))
    assert trainer.model.config.pitome["ratio"] == 0.8  # a dense model is rewritten at once
    trainer.train()
    assert recorder.ratios == LINEAR == history(trainer, "pitome_ratio")
    assert trainer.model.config.pitome["ratio"] == 0.8
    # 64 patches and CLS through 4 layers.
    assert history(trainer, "pitome_tokens")[0] == 65 and history(trainer, "pitome_tokens")[-1] == 29
    saved = history(trainer, "pitome_gflops_saved")
    assert saved[0] == 0 and saved == sorted(saved) and saved[-1] > 0
    # The recorder came first in the list, as reporting integrations do.
    assert recorder.logged[0]["pitome_ratio"] == 1.0


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"schedule": "constant"}, [0.8] * 8),
        ({"schedule": "cosine", "end": 1.0, "levels": 2}, [1.0] * 4 + [0.9] * 4),
        ({"schedule": "stepped", "milestones": {0.0: 0.9, 0.5: 0.8}}, [0.9] * 4 + [0.8] * 4),
        ({"schedule": RatioSchedule(end=2, levels=1)}, [1.0, 1.0] + [0.8] * 6),
    ],
)
def test_other_schedules(tmp_path, arguments, expected):
    recorder = Recorder()
    make_trainer(tmp_path, recorder, PiToMeCallback(0.8, **arguments)).train()
    assert recorder.ratios == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "num_train_epochs": 2},
        {"bf16": True},
        checkpointing(use_reentrant=False),
        checkpointing(use_reentrant=True),
        {"label_smoothing_factor": 0.1},
    ],
    ids=["accumulation", "bf16", "checkpointing", "checkpointing-reentrant", "label-smoothing"],
)
def test_works_with(tmp_path, settings):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, recorder, PiToMeCallback(0.8, distillation=True), **settings)
    before = weights_of(trainer.model)
    trainer.train()
    assert recorder.ratios == LINEAR
    losses = torch.tensor(history(trainer, "loss"))
    assert losses.isfinite().all() and losses[-3:].mean() < losses[:3].mean()
    assert (weights_of(trainer.model) != before).float().mean() > 0.9


def test_checkpointing_changes_nothing(tmp_path):
    losses = []
    for settings in ({}, checkpointing(use_reentrant=False)):
        trainer = make_trainer(tmp_path, PiToMeCallback(0.8, "constant"), **settings)
        trainer.train()
        losses.append(history(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_gradient_accumulation_changes_nothing_and_keeps_one_ratio_per_update(tmp_path):
    found = []
    for batch_size, accumulated in ((8, 1), (4, 2)):
        recorder = Recorder()
        callback = PiToMeCallback(
            0.8, "random", ratio_range=(0.6, 1.0), distillation=DenseDistillation(features="cosine")
        )
        trainer = make_trainer(
            tmp_path,
            recorder,
            callback,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
        )
        trainer.train()
        found.append((recorder.ratios, history(trainer, "loss")))
    assert found[0][0] == found[1][0] and len(set(found[0][0])) > 1
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


def test_evaluates_at_several_ratios(tmp_path):
    recorder = Recorder()
    callback = PiToMeCallback(0.8, end=1.0, eval_ratios=[1.0, 0.6])
    trainer = make_trainer(
        tmp_path,
        recorder,
        callback,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        metric_for_best_model="r0.6_loss",
        greater_is_better=False,
        load_best_model_at_end=True,
    )
    trainer.train()
    assert len(recorder.evaluations) == 2
    names = {"eval_loss", "eval_accuracy", "eval_r1_loss", "eval_r1_accuracy", "eval_r0.6_loss", "eval_r0.6_runtime"}
    assert all(names <= metrics.keys() for metrics in recorder.evaluations)
    assert trainer.state.best_metric == min(metrics["eval_r0.6_loss"] for metrics in recorder.evaluations)
    # The main evaluation is at the target, wherever the schedule is.
    metrics = trainer.evaluate(metric_key_prefix="test")
    model = trainer.model
    for ratio, name in ((0.8, "test_loss"), (1.0, "test_r1_loss"), (0.6, "test_r0.6_loss")):
        apply_pitome(model, ratio)
        data = Pictures(16, seed=1)
        with torch.no_grad():
            assert model.eval()(data.pixels, labels=data.labels).loss.item() == pytest.approx(metrics[name], abs=1e-5)
    assert len({metrics[name] for name in ("test_loss", "test_r1_loss", "test_r0.6_loss")}) == 3


def test_evaluates_without_training(tmp_path):
    metrics = make_trainer(tmp_path, PiToMeCallback(0.8, eval_ratios=[1.0, 0.8])).evaluate()
    assert metrics["eval_loss"] == metrics["eval_r0.8_loss"] != metrics["eval_r1_loss"]
    single = make_trainer(tmp_path, PiToMeCallback(0.8, eval_ratios=1)).evaluate()
    assert single["eval_r1_loss"] == metrics["eval_r1_loss"]


def test_a_second_trainer_starts_anew(tmp_path):
    callback = PiToMeCallback(0.8, "constant", eval_ratios=1)
    make_trainer(tmp_path, callback, max_steps=1).train()
    trainer = make_trainer(tmp_path, callback, model=tiny_vit(num_hidden_layers=2), max_steps=1)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] != metrics["eval_r1_loss"]
    trainer.train()
    assert history(trainer, "pitome_tokens") == [pitome_summary(trainer.model).tokens[-1]]


def test_early_stopping_counts_every_evaluation_once(tmp_path):
    trainer = make_trainer(
        tmp_path,
        EarlyStoppingCallback(early_stopping_patience=2),
        PiToMeCallback(0.8, eval_ratios=[0.6]),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="r0.6_loss",
        greater_is_better=False,
        load_best_model_at_end=True,
        learning_rate=0.0,
    )
    trainer.train()
    assert trainer.state.global_step == 3  # the best, and two that are not better
    assert trainer.model.config.pitome["ratio"] == 0.8


def test_callback_added_later_and_model_settings(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, recorder, model=apply_pitome(tiny_vit(), {"ratio": 0.8, "layers": [0, 1]}))
    trainer.add_callback(PiToMeCallback())
    trainer.train()
    assert recorder.ratios == LINEAR
    assert trainer.model.config.pitome["layers"] == [0, 1]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="Accepted: 'constant'"):
        PiToMeCallback(0.8, "fast")
    with pytest.raises(ValueError, match="ratio=0.3 is out of range"):
        PiToMeCallback(0.3)
    for eval_ratios, message in (
        ([0.2], r"eval_ratios\[0\]=0.2 is out of range"),
        (["a"], r"eval_ratios\[0\]='a': expected a number"),
        ("all", r"eval_ratios\[0\]='all': expected a number"),
        (0, r"eval_ratios\[0\]=0 is out of range"),
    ):
        with pytest.raises(ValueError, match=message):
            PiToMeCallback(0.8, eval_ratios=eval_ratios)
    with pytest.raises(ValueError, match="argument of PiToMeCallback='level' is not known.*Did you mean 'levels'"):
        PiToMeCallback(0.8, level=2)
    with pytest.raises(ValueError, match="distillation=2.0: expected True"):
        PiToMeCallback(0.8, distillation=2.0)
    with pytest.raises(ValueError, match="levels: give schedule a name"):
        PiToMeCallback(0.8, RatioSchedule(), levels=3)
    with pytest.raises(ValueError, match="is dense, and no settings were given"):
        make_trainer(tmp_path, PiToMeCallback()).train()
    with pytest.raises(ValueError, match="of one Trainer would each set the ratios"):
        make_trainer(tmp_path, PiToMeCallback(0.8), PiToMeCallback(0.9)).train()
    with pytest.raises(ValueError, match="eval_ratios, schedule='random' and schedule='stepped' need"):
        model = apply_pitome(tiny_vit(), {"ratio": [0.9, 0.9, 0.8, 0.8]})
        make_trainer(tmp_path, PiToMeCallback(eval_ratios=[0.8]), model=model).train()
    with pytest.raises(ValueError, match="does not know its Trainer"):
        PiToMeCallback(0.8).on_train_begin(None, None, None, model=tiny_vit())


def test_torch_compile(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(
        tmp_path,
        recorder,
        PiToMeCallback(0.8, levels=1),
        model=tiny_vit(num_hidden_layers=2),
        torch_compile=True,
        torch_compile_backend="aot_eager",
        max_steps=4,
    )
    trainer.train()
    assert recorder.ratios == [1.0, 1.0, 0.8, 0.8]
    assert trainer.model.config.pitome["ratio"] == 0.8
    eager = make_trainer(tmp_path, PiToMeCallback(0.8, levels=1), model=tiny_vit(num_hidden_layers=2), max_steps=4)
    eager.train()
    assert history(trainer, "loss") == pytest.approx(history(eager, "loss"), abs=1e-4)


def test_compiling_many_ratios_warns(tmp_path, monkeypatch):
    from optimum_pitome.training import callback as module

    said = []
    monkeypatch.setattr(module.logger, "warning", said.append)
    module._warn_of_recompilations(RatioSchedule(levels=4), PiToMeCallback(0.8).config, 100, 2)
    assert not said
    module._warn_of_recompilations(RatioSchedule(levels=20), PiToMeCallback(0.8).config, 100, 2)
    assert "compiles 23 graphs" in said[0] and "fewer levels" in said[0]
