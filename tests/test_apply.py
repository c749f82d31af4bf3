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

"""Rewriting, re-configuring and undoing; which layers merge."""

from types import SimpleNamespace

import pytest
import torch
from modeling.helpers import VISION, assert_same_state, build, difference, images, run, snapshot
from transformers import AutoModelForImageTextToText, BertModel, SiglipVisionConfig, SiglipVisionModel
from zoo.llava import llava_config
from zoo.text import bert_config

from optimum_pitome import (
    PiToMeConfig,
    apply_pitome,
    pitome_disabled,
    remove_pitome,
)
from optimum_pitome.methods import ALGORITHMS
from optimum_pitome.modeling import resolve
from optimum_pitome.modeling.rewrite import rewritten_encoders


def ratios(model):
    specs = rewritten_encoders(model)[0].pitome.specs
    return [round(1 - spec.ratio.removed_numerator / spec.ratio.removed_denominator, 6) for spec in specs]


@pytest.mark.parametrize("name", VISION)
def test_removing_restores_everything(name):
    model = build(name)
    before, names = snapshot(model), [key for key, _ in model.named_modules()]
    for config in (0.8, PiToMeConfig.paper(0.7), PiToMeConfig.official(0.9, layers=[1])):
        apply_pitome(model, config)
        run(model)
        with pitome_disabled(model):
            run(model)
    assert snapshot(model) != before
    remove_pitome(model)
    assert_same_state(model, before)
    assert [key for key, _ in model.named_modules()] == names
    assert_same_state(remove_pitome(model), before)  # on a dense model: nothing


def test_removing_through_apply():
    model = build()
    before = snapshot(model)
    for nothing in (None, False):
        assert apply_pitome(apply_pitome(model, 0.8), nothing) is model
        assert_same_state(model, before)


def test_a_configuration_of_another_kind_is_left_alone():
    model, own = torch.nn.Module(), {"pitome": "mine", "lr": 0.1}
    for model.config in (own, SimpleNamespace(**own)):
        model.vit = build()
        assert apply_pitome(model, 0.8) is model and rewritten_encoders(model) == [model.vit]
        assert remove_pitome(model) is model and not rewritten_encoders(model)
        assert dict(getattr(model.config, "__dict__", model.config)) == own


def test_hooks_of_others_survive():
    model, calls = build(), []
    model.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.register_forward_hook(lambda *_: calls.append("after"))
    before = snapshot(model)
    apply_pitome(model, 0.8)
    run(model)
    assert calls == ["before", "after"]
    assert_same_state(remove_pitome(model), before)


@pytest.mark.parametrize("name", VISION)
def test_applying_again_is_a_fresh_apply(name):
    model = build(name)
    for config in (0.8, 0.8, PiToMeConfig.official(0.7), {"ratio": 0.9, "layers": [0, -1]}, 1.0, PiToMeConfig.paper()):
        again, fresh = apply_pitome(model, config), apply_pitome(build(name), config)
        assert difference(run(again), run(fresh)) == 0.0
        assert again.config.pitome == fresh.config.pitome
        assert repr(again) == repr(fresh)
        assert len(rewritten_encoders(again)) == 1
        encoder = rewritten_encoders(again)[0]
        assert not encoder._forward_hooks and not encoder._forward_pre_hooks


def test_disabled_is_dense_and_comes_back_after_an_error():
    model = build()
    dense = run(model)
    merged = run(apply_pitome(model, 0.8))
    with pytest.raises(KeyError), pitome_disabled(model):
        assert difference(run(model), dense) == 0.0
        with pitome_disabled(model):
            assert difference(run(model), dense) == 0.0
        assert difference(run(model), dense) == 0.0
        raise KeyError
    assert difference(run(model), merged) == 0.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ratio": 0.9}, [0.9] * 4),
        ({"ratio": 0.9, "layers": [1, 3]}, [1, 0.9, 1, 0.9]),
        ({"ratio": 0.9, "layers": [-1, 0]}, [0.9, 1, 1, 0.9]),
        ({"ratio": [0.6, 0.7, 0.8, 0.9]}, [0.6, 0.7, 0.8, 0.9]),
        ({"ratio": [0.6, 0.7, 0.8, 0.9], "layers": [0, 2]}, [0.6, 1, 0.8, 1]),
        ({"ratio": [0.6, 0.7], "layers": [-1, 0]}, [0.7, 1, 1, 0.6]),
        ({"ratio": [1.0, 0.5, 1, 0.95]}, [1, 0.5, 1, 0.95]),
    ],
)
def test_layers_and_ratios(settings, expected):
    model = apply_pitome(build("ViTModel", "eager"), settings)
    assert ratios(model) == expected
    output = run(model, output_attentions=True)
    patches, lengths = 64, []
    for ratio in expected:
        lengths.append(patches + 1)
        patches -= int(round(1e6 * patches * (1 - ratio)) // 1e6)
    assert [output[f"attentions.{i}"].shape[-1] for i in range(4)] == lengths


def test_parameters_without_effect_are_mentioned(monkeypatch):
    said = []
    monkeypatch.setattr(resolve.logger, "warning_once", said.append)
    apply_pitome(build(), PiToMeConfig(margin=0.5, energy="paper"))
    assert not said
    apply_pitome(build(), PiToMeConfig(margin=0.5, alpha=2.0))
    assert "margin and alpha have no effect here" in said[0] and "energy='nearest'" in said[0]
    apply_pitome(build(), PiToMeConfig(algorithm="tome", energy="paper", metric="keys"))
    assert said[1].startswith("energy has no effect here: algorithm='tome'")
    apply_pitome(build(), PiToMeConfig(algorithm="random", importance=0.5, metric="keys"))
    assert said[2].startswith("metric and importance have no effect here: algorithm='random'")
    for algorithm in ("tofu", "diffrate", "mutual"):
        apply_pitome(build(), PiToMeConfig(algorithm=algorithm, weighted_by="attention"))
    assert len(said) == 3
    for number, algorithm in enumerate(("random", "dct"), start=3):
        apply_pitome(build(), PiToMeConfig(algorithm=algorithm, weighted_by="attention"))
        assert said[number].startswith(f"weighted_by has no effect here: algorithm='{algorithm}'")
    model = apply_pitome(build(), PiToMeConfig(algorithm="tofu", keep_norm=0.5))
    assert said[5].startswith("keep_norm has no effect") and said[5].endswith("it out, or choose another algorithm.")
    assert said[0].endswith("or choose another algorithm or energy.") and "keep_norm=0.5" in str(model)


def test_margins_per_layer():
    specs = rewritten_encoders(apply_pitome(build(), 0.9))[0].pitome.specs
    assert [spec.margin for spec in specs] == pytest.approx([0.9, 0.675, 0.45, 0.225])  # equation 4: 0.9 - 0.9 i / L
    model = apply_pitome(build(), PiToMeConfig(0.9, layers=[2, 0], margin=[0.1, 0.2]))
    specs = rewritten_encoders(model)[0].pitome.specs
    assert (specs[0].margin, specs[2].margin) == (0.2, 0.1)


def test_the_presets():
    paper = rewritten_encoders(apply_pitome(build(), PiToMeConfig.paper(0.9)))[0].pitome.specs
    assert {(spec.algorithm, spec.energy, spec.metric, spec.alpha) for spec in paper} == {
        ("pitome", "paper", "keys", 1)
    }
    assert all(spec.proportional_attention for spec in paper)
    official = rewritten_encoders(apply_pitome(build(), PiToMeConfig.official(0.9)))[0].pitome.specs
    # timm DeiT: ELU, margin .75 - .75 i/L, the first half without protection, no proportional attention.
    assert [spec.algorithm for spec in official] == ["pitome_unprotected"] * 2 + ["pitome"] * 2
    assert [spec.margin for spec in official] == pytest.approx([0.75, 0.5625, 0.375, 0.1875])
    assert not any(spec.proportional_attention for spec in official) and official[0].energy == "elu"
    # What the user says goes before the preset.
    mixed = apply_pitome(build(), PiToMeConfig.official(0.9, energy="gaussian", proportional_attention=True))
    assert {(spec.energy, spec.proportional_attention) for spec in rewritten_encoders(mixed)[0].pitome.specs} == {
        ("gaussian", True)
    }


def test_importance_is_on_where_it_was_measured():
    def found(model, **settings):
        specs = rewritten_encoders(apply_pitome(model, {"ratio": 0.9, **settings}))[0].pitome.specs
        return {spec.importance for spec in specs}

    assert found(build()) == {0.5}
    assert found(build(), importance=0.25) == {0.25} and found(build(), importance=0) == {0.0}
    # A comparison by name compares what the name says.
    assert (
        found(build(), algorithm="tome") == found(build(), energy="paper") == found(build(), preset="official") == {0}
    )
    assert found(build(), algorithm="tome", importance=1) == {1.0}


def test_texts_are_matched_by_position_where_there_is_a_budget():
    def found(**settings):
        (encoder,) = rewritten_encoders(apply_pitome(BertModel(bert_config()), settings))
        return {(spec.algorithm, spec.importance) for spec in encoder.pitome.specs}

    assert found(flops_ratio=1.2) == {("tome", 0.75)} and found(ratio=0.9) == {("pitome", 0.5)}
    # What is named stays, ...
    assert found(flops_ratio=1.2, algorithm="pitome") == {("pitome", 0.5)}
    assert found(flops_ratio=1.2, algorithm="tofu") == {("tofu", 0.0)}
    assert found(flops_ratio=1.2, importance=0.25) == {("tome", 0.25)}
    # ... and an energy with an algorithm that reads it.
    assert found(flops_ratio=1.2, energy="paper") == {("pitome", 0.0)}
    assert found(flops_ratio=1.2, preset="official") == {("pitome_halves", 0.0)}


def test_layers_that_nothing_reads(monkeypatch):
    said, config = [], llava_config()
    monkeypatch.setattr(resolve.logger, "warning_once", said.append)
    config.vision_feature_layer = -2  # of four layers
    model = AutoModelForImageTextToText.from_config(config)
    apply_pitome(model, {"ratio": 0.8, "layers": [2, 3]})
    assert not said
    apply_pitome(model, {"ratio": 0.8, "layers": [3]})
    (warning,) = said
    assert warning.startswith("layers=[3] merges nothing that is read: this model takes its features before layer 3")


def test_importance_of_each_layer():
    def found(**settings):
        (encoder,) = rewritten_encoders(apply_pitome(build(), settings))
        return [spec.importance for spec in encoder.pitome.specs]

    count = len(found())
    assert found(importance=[0.25] * (count - 1) + [0.0]) == [0.25] * (count - 1) + [0.0]
    assert found(ratio=0.8, layers=[1, 0], importance=[0.1, 0.2])[:2] == [0.2, 0.1]
    with pytest.raises(ValueError, match="importance has 1 entries, but the model has"):
        found(importance=[0.5])
    with pytest.raises(ValueError, match=r"importance\[1\]=2 is out of range"):
        PiToMeConfig(importance=[0.5, 2])


def test_importance_needs_a_class_token():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8))
    with pytest.raises(ValueError, match="importance=0.5 weighs tokens by the attention of the class token.*has none"):
        apply_pitome(model, {"importance": 0.5})
    assert not rewritten_encoders(model)
    for none in (None, 0, [0.0, 0.0]):
        apply_pitome(model, {"ratio": 0.9, "importance": none})
        assert {spec.importance for spec in rewritten_encoders(model)[0].pitome.specs} == {0.0}
    with pytest.raises(ValueError, match="algorithm='diffrate' ranks tokens by the attention of the class.*has none"):
        apply_pitome(model, {"algorithm": "diffrate"})
    with pytest.raises(
        ValueError, match="weighted_by='attention' weighs.*has none. Leave weighted_by out, or set it to"
    ):
        apply_pitome(model, {"weighted_by": "attention"})
    apply_pitome(model, {"weighted_by": "nothing"})


def test_what_becomes_of_a_group_is_resolved_for_each_layer():
    def found(**settings):
        specs = rewritten_encoders(apply_pitome(build(), {"ratio": 0.9, **settings}))[0].pitome.specs
        return [spec.combine for spec in specs]

    assert found() == found(algorithm="tome") == ["mean"] * 4
    assert found(algorithm="tofu") == ["target", "target", "mlerp", "mlerp"]
    assert found(algorithm="tofu", layers=[3]) == ["target", "target", "mlerp", "mlerp"]  # by depth
    assert found(algorithm="dct") == ["resample"] * 4 and found(algorithm="diffrate") == ["prune_half"] * 4


@pytest.mark.parametrize("algorithm", ["tofu", "dct", "diffrate"])
def test_it_comes_back_from_a_checkpoint(algorithm, tmp_path):
    model = apply_pitome(build(), PiToMeConfig(0.8, algorithm=algorithm))
    expected = run(model)["last_hidden_state"]
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config.pitome["algorithm"] == algorithm
    assert torch.equal(run(loaded)["last_hidden_state"], expected)
    dense = type(model).from_pretrained(tmp_path, pitome=False).eval()
    assert torch.equal(run(apply_pitome(dense, PiToMeConfig(0.8, algorithm=algorithm)))["last_hidden_state"], expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("metric", ["keys", "hidden_states"])
def test_every_algorithm_runs_in_a_model(algorithm, metric):
    model = apply_pitome(build(), PiToMeConfig(0.8, algorithm=algorithm, metric=metric, layers=[0, 2]))
    output = run(model)["last_hidden_state"]
    assert output.shape == (2, 65, 32) and output.isfinite().all()
    torch.testing.assert_close(run(model, images()[1:])["last_hidden_state"], output[1:], atol=1e-5, rtol=1e-5)


def test_the_rewriting_shows():
    model = apply_pitome(build(), PiToMeConfig(0.9, layers=[0]))
    text = repr(model)
    assert "PiToMeViTLayer" in text
    assert "  share of the tokens that the layers keep: 0.9, 1, 1, 1\n" in text
    assert "algorithm=pitome, energy=nearest" in text and "(1-3): 3 x PiToMeViTLayer(\n      no merging" in text
    assert type(model.layers[0]).__name__ == "ViTLayer"  # what FSDP policies and device maps look for
    text = repr(apply_pitome(model, {"ratio": [0.9, 0.8, 0.7, 0.6]}))
    assert "keep: 0.9, 0.8, 0.7, 0.6\n" in text and "(0-3): 4 x PiToMeViTLayer" in text  # printed once
    assert "that every layer keeps: 0.7\n" in repr(apply_pitome(model, 0.7))
    dense = repr(remove_pitome(model))
    assert "PiToMe" not in dense and "share of the tokens" not in dense
