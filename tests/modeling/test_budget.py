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

"""Budgets in place of a ratio: every layer's ratio follows from so many times fewer operations, or tokens left."""

import pytest
import torch
from families.llava_helpers import build as build_llava
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    ViTConfig,
    ViTModel,
)
from zoo import one_per_encoder
from zoo.llava import llava_config

from optimum_pitome import (
    PiToMeCallback,
    PiToMeConfig,
    RatioSchedule,
    apply_pitome,
    num_image_tokens,
    pitome_summary,
)
from optimum_pitome.methods import PROFILES
from optimum_pitome.modeling.rewrite import rewritten_encoders


def vit(num_layers: int = 12, width: int = 384, image_size: int = 224) -> ViTModel:
    """A ViT without weights."""
    sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    with torch.device("meta"):
        return ViTModel(ViTConfig(num_hidden_layers=num_layers, image_size=image_size, **sizes)).eval()


def ratios(model) -> list[float]:
    (encoder,) = rewritten_encoders(model)
    return [1 - spec.ratio.removed_numerator / spec.ratio.removed_denominator for spec in encoder.pitome.specs]


@settings(max_examples=25, deadline=None)
@given(
    target=st.floats(1.02, 2.6),
    num_layers=st.integers(3, 30),
    image_size=st.sampled_from([112, 224, 384]),
    profile=st.sampled_from([None, *PROFILES]),
)
def test_so_many_times_fewer_operations(target, num_layers, image_size, profile):
    model = vit(num_layers, image_size=image_size)
    summary = pitome_summary(apply_pitome(model, PiToMeConfig(flops_ratio=target, profile=profile)))
    # The budget is kept, and by no more than the rounding of the tokens in a few layers.
    assert target <= summary.flops_ratio <= target * 1.03 + 0.02


@settings(max_examples=25, deadline=None)
@given(num_tokens=st.integers(8, 196), num_layers=st.integers(6, 24), profile=st.sampled_from([None, *PROFILES]))
def test_so_many_tokens_left(num_tokens, num_layers, profile):
    model = apply_pitome(vit(num_layers), PiToMeConfig(num_tokens=num_tokens, profile=profile))
    assert pitome_summary(model).encoders[0].tokens[-1] == 1 + num_tokens


def test_a_jump_over_the_number_of_tokens_is_made_up_for():
    """Ratios in steps cannot reach every number: what is missing is spared, once, in the last layers."""
    for num_tokens in range(30, 196, 3):
        config = PiToMeConfig(num_tokens=num_tokens, layers=[2, 3, 4, 5], profile="uniform")
        assert pitome_summary(apply_pitome(vit(6), config)).encoders[0].tokens[-1] == 1 + num_tokens


@pytest.mark.parametrize("case", one_per_encoder(), ids=lambda case: case.id)
def test_every_model_takes_a_budget(case):
    torch.manual_seed(0)
    model = case.build()
    apply_pitome(model, 0.5)  # what is the least that this tiny model can do
    most = pitome_summary(model).encoders[0].gflops_dense / sum(
        (pitome_summary(model).encoders[0].gflops_merged, pitome_summary(model).encoders[0].gflops_merge_step)
    )
    if most <= 1.02:
        with pytest.raises(ValueError, match="out of reach"):
            apply_pitome(model, PiToMeConfig(flops_ratio=1.5 * most))
        return
    target = 1 + 0.6 * (most - 1)
    encoder = pitome_summary(apply_pitome(model, PiToMeConfig(flops_ratio=target))).encoders[0]
    assert encoder.gflops_dense / (encoder.gflops_merged + encoder.gflops_merge_step) >= target
    with torch.no_grad():
        model(**case.inputs(2))


def test_the_uniform_profile_is_one_ratio():
    model = apply_pitome(vit(), PiToMeConfig(flops_ratio=1.8, profile="uniform"))
    found = ratios(model)
    assert len(set(found)) == 1
    expected = pitome_summary(model).flops_ratio
    assert pitome_summary(apply_pitome(vit(), round(found[0], 4))).flops_ratio == expected


def test_the_rising_profile_rises_with_the_depth():
    removed = [1 - ratio for ratio in ratios(apply_pitome(vit(), PiToMeConfig(flops_ratio=1.5, profile="rising")))]
    assert [value / removed[-1] for value in removed] == pytest.approx([(i + 1) / 12 for i in range(12)], abs=2e-3)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(list(PROFILES)),
    place=st.floats(0.01, 1),
    strengths=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_no_layer_removes_less_when_more_is_asked_for(name, place, strengths):
    less, more = (min(PROFILES[name].removed(place, strength), 0.5) for strength in sorted(strengths))
    assert 0 <= less <= more + 1e-9 and more <= 0.5
    assert PROFILES[name].removed(place, 0) == 0 and PROFILES[name].removed(place, 1) == 0.5


def test_dense_and_out_of_reach():
    assert ratios(apply_pitome(vit(), PiToMeConfig(flops_ratio=1))) == [1.0] * 12
    assert ratios(apply_pitome(vit(), PiToMeConfig(num_tokens=196))) == [1.0] * 12
    with pytest.raises(ValueError, match=r"flops_ratio=50 is out of reach.*are up to 8\.\d+ times fewer"):
        apply_pitome(vit(), PiToMeConfig(flops_ratio=50))
    with pytest.raises(ValueError, match="num_tokens=3 is out of reach.*go down to 13 of 196"):
        apply_pitome(vit(), PiToMeConfig(num_tokens=3, layers=[0, 1, 2, 3]))
    with pytest.raises(ValueError, match="num_tokens=300.*196 tokens"):
        apply_pitome(vit(), PiToMeConfig(num_tokens=300))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ratio": 0.9, "flops_ratio": 1.5}, "ratio=0.9, flops_ratio=1.5: each of them says how much merges"),
        ({"num_tokens": 9, "flops_ratio": 1.5}, "Give one of ratio, flops_ratio, num_tokens"),
        ({"profile": "rising", "ratio": 0.9}, "says what each of them does"),
        ({"profile": "rising"}, "spreads a budget.*here is none"),
        ({"flops_ratio": 0.9}, "flops_ratio=0.9 is out of range"),
        ({"num_tokens": 0}, "whole number of at least 1"),
        ({"profile": "risng", "flops_ratio": 2}, "Did you mean 'rising'"),
        ({"parts": {"vision": {"ratio": 0.9, "flops_ratio": 2}}}, r"parts\['vision'\]: ratio=0.9, flops_ratio=2"),
    ],
)
def test_messages(fields, message):
    with pytest.raises(ValueError, match=message):
        PiToMeConfig(**fields)


def test_a_budget_stays_what_it_is(tmp_path):
    """It is saved as it was given, and follows the depth of the model that it meets."""
    config = PiToMeConfig(flops_ratio=1.3, base_model_name_or_path="a/b")
    config.save_pretrained(tmp_path / "recipe")
    again = PiToMeConfig.from_pretrained(tmp_path / "recipe")
    assert again == config and again.ratio is None and again.to_pitome_dict()["flops_ratio"] == 1.3
    model = ViTModel(ViTConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=2, intermediate_size=128))
    apply_pitome(model, {"flops_ratio": 1.3}).save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert ratios(loaded) == ratios(model) and loaded.config.pitome["flops_ratio"] == 1.3
    assert "ratio" not in loaded.config.pitome
    left = [
        pitome_summary(apply_pitome(vit(depth), PiToMeConfig(flops_ratio=1.8))).encoders[0].tokens[-1]
        for depth in (12, 24, 40)
    ]
    assert min(left) > 0.35 * max(left)  # one ratio of .9 leaves 60, 21 and 7


def test_presets_take_budgets():
    assert PiToMeConfig.paper() == PiToMeConfig.paper(0.9) and PiToMeConfig.official().ratio == 0.9
    for preset in (PiToMeConfig.paper, PiToMeConfig.official):
        model = apply_pitome(vit(), preset(flops_ratio=1.5))
        assert pitome_summary(model).flops_ratio == pytest.approx(1.5, rel=0.03)


def test_the_budget_of_a_part_replaces_the_shared_one():
    config = PiToMeConfig(flops_ratio=1.5, profile="rising", parts={"vision": 0.9, "text": {"min_tokens": 4}})
    vision, text = config.for_part("vision"), config.for_part("text")
    assert (vision.ratio, vision.flops_ratio, vision.profile) == (0.9, None, None)
    assert (text.ratio, text.flops_ratio, text.profile, text.min_tokens) == (None, 1.5, "rising", 4)


def test_texts_take_operations_but_no_number_of_tokens():
    with torch.device("meta"):
        model = BertModel(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)).eval()
    with pytest.raises(ValueError, match="texts of any length.*flops_ratio"):
        apply_pitome(model, PiToMeConfig(num_tokens=100))
    assert pitome_summary(apply_pitome(model, PiToMeConfig(flops_ratio=1.4))).flops_ratio == pytest.approx(1.4, 0.02)
    # Of shorter texts nearly as many, since the ratios are the same.
    assert pitome_summary(model, num_tokens=128).flops_ratio == pytest.approx(1.4, 0.06)


def test_the_prompt_of_a_llava_has_so_many_tokens():
    config = llava_config()
    config.pitome = {"num_tokens": 23}
    model = apply_pitome(build_llava(), PiToMeConfig(num_tokens=23))
    assert num_image_tokens(model) == num_image_tokens(config) == num_image_tokens(model.config) == 23
    assert pitome_summary(model).reader.image_tokens_merged == 23


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks by the old name
def test_an_adapter_does_not_move_the_schedule():
    from peft import LoraConfig, get_peft_model

    model = apply_pitome(ViTModel(ViTConfig(num_hidden_layers=4)), PiToMeConfig(flops_ratio=1.6))
    before = ratios(model)
    adapted = get_peft_model(model, LoraConfig(r=64, target_modules=["q_proj"]))
    apply_pitome(adapted, PiToMeConfig(flops_ratio=1.6))
    assert ratios(adapted) == before


def test_schedules_of_training():
    target = PiToMeConfig(flops_ratio=2.0, parts={"vision": {"ratio": [0.8, 0.9]}, "text": {"min_tokens": 2}})
    halfway = RatioSchedule("linear", 0, 1.0, levels=2).config_at(5, 10, target)
    # Half of the operations that the target saves.
    assert halfway.flops_ratio == pytest.approx(1 / 0.75, 1e-5) and halfway.parts["vision"]["ratio"] == [0.9, 0.95]
    assert halfway.parts["text"] == {"min_tokens": 2}
    with pytest.raises(ValueError, match="num_tokens=9: the way there"):
        RatioSchedule("linear", 0, 1.0).config_at(5, 10, PiToMeConfig(num_tokens=9))
    with pytest.raises(ValueError, match="flops_ratio, which 0.9 for all layers cannot stand for"):
        RatioSchedule("stepped", milestones={0.0: 0.9}).config_at(5, 10, PiToMeConfig(flops_ratio=2.0))
    assert PiToMeCallback(PiToMeConfig(flops_ratio=2.0)) is not None


def test_one_ratio_that_leaves_next_to_nothing_is_named(monkeypatch):
    from optimum_pitome.modeling import rewrite

    told = []
    monkeypatch.setattr(rewrite.logger, "warning_once", told.append)
    apply_pitome(vit(12), 0.9)
    assert not told
    apply_pitome(vit(24), 0.9)
    assert len(told) == 1 and "leaves 20 of 196 tokens" in told[0] and "flops_ratio" in told[0]
    apply_pitome(vit(24), {"ratio": [0.9] * 24})  # somebody chose each of them
    apply_pitome(vit(24), {"flops_ratio": 2.5})
    assert len(told) == 1


@pytest.mark.parametrize("flops_ratio", [1.2, 1.5])
def test_models_that_label_every_token_merge_early(flops_ratio):
    """Others that read the same encoder merge as embeddings do."""
    with torch.device("meta"):
        classes = (BertForTokenClassification, BertForMaskedLM, BertModel)
        models = [model_class(BertConfig(num_hidden_layers=6)) for model_class in classes]
    (labels,), (predicts,), (embeds,) = (
        [encoder.pitome.specs for encoder in rewritten_encoders(apply_pitome(model, {"flops_ratio": flops_ratio}))]
        for model in models
    )
    assert embeds == predicts and embeds[0].algorithm == "tome" and embeds[-1].ratio.kept < embeds[0].ratio.kept
    assert labels[0].algorithm == "pitome" and labels[0].ratio == labels[1].ratio
    removed = [1 - spec.ratio.kept for spec in labels]
    assert sum(removed[:2]) > 0.7 * sum(removed)
