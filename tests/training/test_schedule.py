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

"""Ratios over the steps of a training run."""

import pytest
import torch
from training.tiny import tiny_vit
from transformers import VisionTextDualEncoderModel
from zoo.vision_language import dual_encoder_config

from optimum_pitome import PiToMeConfig, RatioSchedule, RatioScheduler, apply_pitome
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.tuning.space import SearchSpace


TARGET = PiToMeConfig(ratio=0.9)


def ratios(schedule, steps=10, target=TARGET):
    return [schedule.config_at(step, steps, target).ratio for step in range(steps)]


def test_linear_goes_in_equal_jumps_and_arrives_at_the_end_of_the_stretch():
    assert ratios(RatioSchedule(end=1.0), 8) == [1.0, 1.0, 0.975, 0.975, 0.95, 0.95, 0.925, 0.925]
    assert ratios(RatioSchedule(start=2, end=6), 8) == [1.0, 1.0, 1.0, 0.975, 0.95, 0.925, 0.9, 0.9]
    assert ratios(RatioSchedule(start=0.5, end=0.5), 4) == [1.0, 1.0, 0.9, 0.9]
    assert ratios(RatioSchedule(end=0), 3) == [0.9] * 3


def test_cosine_lingers_at_both_ends():
    linear, cosine = (ratios(RatioSchedule(kind, end=1.0, levels=100), 100) for kind in ("linear", "cosine"))
    assert cosine[20] > linear[20] and cosine[80] < linear[80] and cosine[50] == linear[50]
    assert cosine == sorted(cosine, reverse=True)


def test_constant_and_stepped():
    assert ratios(RatioSchedule("constant"), 3) == [0.9] * 3
    stepped = RatioSchedule("stepped", milestones={0.25: 0.95, 3: 0.8})
    assert ratios(stepped, 4) == [1.0, 0.95, 0.95, 0.8]


def test_random_has_every_level_equally_often_and_no_state():
    schedule = RatioSchedule("random", ratio_range=(0.8, 1.0), seed=3)
    drawn = ratios(schedule, 50)
    assert {ratio: drawn.count(ratio) for ratio in drawn} == {0.8: 10, 0.85: 10, 0.9: 10, 0.95: 10, 1.0: 10}
    assert drawn[17:20] == [schedule.config_at(step, 50, TARGET).ratio for step in (17, 18, 19)]
    assert drawn != ratios(RatioSchedule("random", ratio_range=(0.8, 1.0), seed=4), 50)


def test_lists_and_parts_keep_their_shape():
    target = PiToMeConfig(ratio=[0.8, 1.0, 0.6], parts={"vision": {"ratio": 0.9}, "text": {"metric": "keys"}})
    halfway = RatioSchedule(end=1.0, levels=2).config_at(5, 10, target)
    assert halfway.ratio == [0.9, 1.0, 0.8]
    assert halfway.parts == {"vision": {"ratio": 0.95}, "text": {"metric": "keys"}}
    with pytest.raises(ValueError, match="for all layers cannot stand for"):
        RatioSchedule("random", ratio_range=(0.8, 1.0)).config_at(0, 10, target)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "quadratic"}, "Accepted: 'constant', 'linear'"),
        ({"start": 1.5}, "start=1.5 is out of range"),
        ({"end": "all"}, "a number of steps"),
        ({"start": 0.8, "end": 0.2}, "is after end=0.2"),
        ({"levels": 0}, "at least 1"),
        ({"kind": "stepped"}, "milestones={0.0: 0.95, 0.5: 0.9}"),
        ({"milestones": {0: 0.9}}, "belong together"),
        ({"kind": "stepped", "milestones": {0: 0.3}}, "ratio=0.3 is out of range"),
        ({"kind": "stepped", "milestones": [0.9]}, "milestones=\\[0.9\\]: expected from when on"),
        ({"kind": "random", "ratio_range": 0.8}, "ratio_range=0.8: expected the lowest"),
        ({"kind": "random"}, "ratio_range=\\(0.8, 1.0\\)"),
        ({"kind": "random", "ratio_range": (0.9, 0.8)}, "the lowest ratio, then the highest"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        RatioSchedule(**arguments)


def test_scheduler_moves_a_model():
    model = tiny_vit()
    scheduler = RatioScheduler(model, 0.8, num_training_steps=8, schedule=RatioSchedule(end=1.0))
    assert model.config.pitome["ratio"] == 0.8
    encoder = rewritten_encoders(model)[0]
    seen = []
    for step in range(8):
        scheduler.set_step(step)
        seen.append(
            1 - encoder.pitome.specs[0].ratio.removed_numerator / encoder.pitome.specs[0].ratio.removed_denominator
        )
    assert seen == pytest.approx([1, 1, 0.95, 0.95, 0.9, 0.9, 0.85, 0.85])
    with scheduler.at(0.6):
        assert model.config.pitome["ratio"] == 0.6
    assert model.config.pitome["ratio"] == 0.85
    scheduler.finish()
    assert model.config.pitome["ratio"] == 0.8


def test_scheduler_takes_the_settings_of_the_model_and_sees_through_wrappers():
    model = apply_pitome(tiny_vit(), PiToMeConfig(ratio=0.8, layers=[1, 2]))
    scheduler = RatioScheduler(torch.nn.DataParallel(model), num_training_steps=4)
    scheduler.set_step(0)
    assert model.config.pitome["ratio"] == 1.0 and model.config.pitome["layers"] == [1, 2]
    with pytest.raises(ValueError, match="is dense, and no settings were given"):
        RatioScheduler(tiny_vit(), num_training_steps=4)


def test_models_around_encoders_have_the_settings_of_those():
    pictures, both = tiny_vit(), VisionTextDualEncoderModel(dual_encoder_config())
    for model, settings in ((pictures, PiToMeConfig(ratio=0.8)), (both, PiToMeConfig(parts={"text": 0.8}))):
        around = torch.nn.ModuleList([apply_pitome(model, settings)])
        assert RatioScheduler(around, num_training_steps=4).target == settings
        assert SearchSpace(around, 1.2).settings == settings
