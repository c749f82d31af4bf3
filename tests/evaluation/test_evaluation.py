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

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from modeling.test_other_architectures import clean_registry
from modeling.test_whole_layer import KeywordEncoder, RenamedLayer
from PIL import Image
from transformers import (
    Qwen2VLForConditionalGeneration,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2ForSequenceClassification,
)
from zoo.audio import wav2vec2_config, waves
from zoo.packed import CASES as PACKED
from zoo.packed import with_text
from zoo.vision_language import dual_encoder_config, image_and_text
from zoo.vit import vit_config

from optimum_pitome import (
    PiToMeConfig,
    apply_pitome,
    evaluate,
    pitome_summary,
    register_architecture,
    remove_pitome,
)
from optimum_pitome.analysis.report import milliseconds
from optimum_pitome.analysis.timing import DenseMergedTimer, Timing
from optimum_pitome.evaluation.judges import AnswerJudge, EmbeddingJudge
from optimum_pitome.evaluation.results import Evaluations, percent


__all__ = ["clean_registry"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ViTForImageClassification(vit_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return apply_pitome(model, 0.6)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(4)]
    return [{"pixel_values": image, "labels": torch.arange(4) % 3} for image in images]


def test_evaluation_against_two_plain_passes(model, batches):
    evaluations = evaluate(model, iter(batches), source={"task": "image-classification"})
    (evaluation,) = evaluations
    labels = torch.cat([batch["labels"] for batch in batches])
    pixel_values = torch.cat([batch["pixel_values"] for batch in batches])
    with torch.no_grad():
        merged = model.eval()(pixel_values).logits.argmax(-1)
        summary = pitome_summary(model)
        dense = apply_pitome(model, 1.0)(pixel_values).logits.argmax(-1)
    assert evaluation.dense["accuracy"] == pytest.approx((dense == labels).float().mean().item())
    assert evaluation.merged["accuracy"] == pytest.approx((merged == labels).float().mean().item())
    agreement = (merged == dense).float().mean().item()
    assert evaluation.agreement["agreement"] == pytest.approx(agreement) and agreement < 1
    assert evaluation.num_samples == 16 and evaluation.batch_size == 4 and evaluation.timing.rounds == 4
    assert evaluation.flops_ratio == pytest.approx(summary.flops_ratio) and summary.flops_ratio > 1
    right = [(answers == labels).float() for answers in (dense, merged)]
    assert evaluation.difference["accuracy"] == pytest.approx((right[1] - right[0]).mean().item())
    assert (evaluation.name, evaluation.settings["ratio"]) == ("0.6", 0.6)
    assert evaluation.num_tokens == [65] and evaluation.tokens_left == [summary.tokens[-1]]
    assert "same answer as dense" in str(evaluations) and "CPU" in str(evaluations)


def test_operations_are_counted_at_the_lengths_that_were_run(model, batches):
    larger = torch.nn.functional.interpolate(batches[0]["pixel_values"], size=(64, 64))
    batch = {"pixel_values": larger, "labels": batches[0]["labels"], "interpolate_pos_encoding": torch.tensor(True)}
    (evaluation,) = evaluate(model, [batch])
    assert evaluation.gflops_dense == pytest.approx(pitome_summary(model, num_tokens=257).gflops_dense)


def packed_patches():
    config = next(case for case in PACKED if case.model_class is Qwen2VLForConditionalGeneration).config()
    model = Qwen2VLForConditionalGeneration(config).eval()
    answering = AnswerJudge(model, SimpleNamespace(batch_decode=lambda ids, **kwargs: ["1"] * len(ids)), 2)
    return model, {**with_text(2), "answers": [["1"], ["2"]]}, answering, 48


def sounds_with_a_mask_of_values():
    model, batch = Wav2Vec2ForSequenceClassification(wav2vec2_config()).eval(), waves(2)
    return model, {**batch, "labels": torch.tensor([0, 1])}, None, int(model._get_feat_extract_output_lengths(300))


def tokens_by_another_keyword():
    register_architecture(KeywordEncoder, RenamedLayer, layers="blocks", attention="attn", num_prefix_tokens=1)
    model = KeywordEncoder(ViTConfig(hidden_size=16, num_attention_heads=2)).eval()
    return model, {"hidden_states": torch.randn(12, 21, 16)}, EmbeddingJudge(model, neighbours=1), 21


# Models that the floor's transformers has otherwise.
NEWER = [pytest.param(make, marks=pytest.mark.slow) for make in (packed_patches, sounds_with_a_mask_of_values)]


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize("make", [*NEWER, tokens_by_another_keyword])
def test_tokens_are_counted_whatever_layers_get(make):
    model, batch, judge, length = make()
    assert evaluate(model, [batch], judge, ratios=0.8, progress=False)[0].num_tokens == [length]


def test_budgets_that_mean_something_else_at_these_lengths(model, batches):
    """A budget is counted at the configured size: the table's footer says what it is here."""
    budgets = [{"flops_ratio": 1.1}, {"flops_ratio": 1.3}]
    assert "At the lengths of these samples" not in " ".join(str(evaluate(model, batches, ratios=budgets)).split())
    larger = torch.nn.functional.interpolate(batches[0]["pixel_values"], size=(64, 64))
    batch = {"pixel_values": larger, "labels": batches[0]["labels"], "interpolate_pos_encoding": torch.tensor(True)}
    budgets.append({"flops_ratio": 1.1, "min_tokens": 50})
    found = evaluate(model, [batch], ratios=budgets)
    text, (one, _, other) = " ".join(str(found).split()), (each.flops_ratio for each in found)
    assert f"At the lengths of these samples, flops_ratio=1.1 is {one:.2f} to {other:.2f}." in text
    assert one < 1.07 < other


SETTINGS = [0.9, {"ratio": 0.6, "energy": "paper"}, PiToMeConfig(ratio=0.7)]


def test_several_settings_are_what_each_is_alone(model, batches):
    together = evaluate(model, iter(batches), ratios=SETTINGS)
    assert [one.name for one in together] == ["0.9", "0.6, energy=paper", "0.7"]
    for settings, one in zip(SETTINGS, together):
        (alone,) = evaluate(model, batches, ratios=settings)
        for name in ("dense", "merged", "difference", "agreement", "gflops_dense", "gflops_merged", "settings"):
            assert getattr(one, name) == getattr(alone, name)
    named = evaluate(model, batches, ratios={"mild": 0.9, "ratio 0.5": {"ratio": 0.5}}, progress=False)
    assert list(named.table().index) == ["dense", "mild", "ratio 0.5"]
    # What all settings have in common distinguishes none.
    common = evaluate(model, batches, ratios=[{"ratio": 0.9, "layers": [0]}, {"ratio": 0.8, "layers": [0]}])
    assert [one.name for one in common] == ["0.9", "0.8"]


def test_parts_are_no_names():
    model, inputs = VisionTextDualEncoderModel(dual_encoder_config()), image_and_text(3)
    (found,) = evaluate(
        model, [{**inputs, "captions": [["a"], ["b"], ["c"]]}], ratios={"text": {"ratio": 0.75}}, progress=False
    )
    assert found.settings["parts"] == {"text": {"ratio": 0.75}}
    assert found.num_tokens == [inputs["input_ids"].shape[1]]


def test_the_model_is_left_as_it_was(model, batches):
    model.train().vit.layers[0].eval()  # frozen
    rewrite, settings = model.vit.pitome, dict(model.config.pitome)
    evaluate(model, batches)
    evaluate(model, batches, ratios=[0.9, 0.8])
    assert model.training and not model.vit.layers[0].training
    assert not [layer for layer in model.vit.layers if layer._forward_pre_hooks]
    with pytest.raises(RuntimeError, match="the data broke"):
        evaluate(model, broken(batches), ratios=0.9)
    assert model.vit.pitome is rewrite and model.config.pitome == settings
    assert all(layer.pitome_spec is spec for layer, spec in zip(model.vit.layers, rewrite.specs))
    # Settings that stand on a part stay there.
    apply_pitome(remove_pitome(model).vit, 0.7)
    part = model.vit.pitome
    evaluate(model, batches, ratios=0.9)
    assert model.vit.pitome is part and model.vit.config.pitome["ratio"] == 0.7
    dense = remove_pitome(model)
    evaluate(dense, batches, ratios=0.9)
    assert not hasattr(dense.vit, "pitome") and not hasattr(dense.config, "pitome")
    with pytest.raises(ValueError, match="layers"):
        evaluate(dense, batches, ratios=[0.9, {"ratio": 0.9, "layers": [40]}])
    assert not hasattr(dense.vit, "pitome")


def broken(batches):
    yield batches[0]
    raise RuntimeError("the data broke")


def test_table_json_and_plot(model, batches, tmp_path, monkeypatch):
    found = evaluate(model, batches, ratios=[0.9, 0.6], source={"dataset": "noise"})
    table = found.table()
    assert list(table.index) == ["dense", "0.9", "0.6"] and table.loc["dense", "same answer as dense, %"] == ""
    assert table.loc["0.6", "accuracy, %"].startswith(f"{100 * found[1].merged['accuracy']:.2f} [")
    assert table.loc["0.6", "- dense, %"].startswith(f"{100 * found[1].difference['accuracy']:+.2f} [")
    assert f"{found[1].timing.speedup:.2f}x as fast" in str(found)
    found.to_json(tmp_path / "new" / "found.json")
    written = json.loads((tmp_path / "new" / "found.json").read_text())["evaluations"]
    assert written == json.loads(json.dumps(found.to_dict()))["evaluations"]
    assert [one["settings"]["ratio"] for one in written] == [0.9, 0.6] and written[0]["source"]["dataset"] == "noise"
    assert written[0]["timing"]["rounds"] == 4 and "accuracy_low" in written[0]["difference"]
    found.plot(tmp_path / "plots" / "found.png", "noise")
    assert Image.open(tmp_path / "plots" / "found.png").width > 500
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot(tmp_path / "none.png")


def test_times_that_contradict_the_speed_up_are_pointed_out(model, batches):
    (one,) = evaluate(model, batches, ratios=[0.9])
    steady = dataclasses.replace(one, timing=Timing(72.0, 60.0, 1.17, 1.1, 1.3, 5))
    busy = dataclasses.replace(one, name="late", timing=Timing(180.0, 149.0, 1.17, 1.1, 1.3, 5))
    said = "Of late, the times contradict the speed-up"
    assert said in " ".join(str(Evaluations((steady, busy))).split())
    assert "contradict" not in str(Evaluations((steady,)))


def test_what_cannot_be_evaluated(model, batches):
    with pytest.raises(ValueError, match="there are no batches"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="A batch is a str: expected a mapping of the model's inputs, as a tokenizer"):
        evaluate(model, ["a text"])
    with pytest.raises(ValueError, match=r"batches is one batch: pass a list of batches, such as \[batch\]"):
        evaluate(model, batches[0])
    with pytest.raises(ValueError, match="This ViTForImageClassification is dense: .* Pass ratios=0.9"):
        evaluate(ViTForImageClassification(vit_config()), batches)
    with pytest.raises(ValueError, match=r"ratios=\[\] names no settings"):
        evaluate(model, batches, ratios=[])
    with pytest.raises(ValueError, match="False is the dense model, which is in every evaluation"):
        evaluate(model, batches, ratios=[False])
    with pytest.raises(ValueError, match="ratio=0.1 is out of range"):
        evaluate(model, batches, ratios=0.1)
    with pytest.raises(ValueError, match="no field 'ratoi'. Did you mean 'ratio'"):
        evaluate(model, batches, ratios={"ratoi": 0.9})


def test_numbers_of_tables_are_plain_and_lie_in_their_intervals(model, batches):
    assert (milliseconds(12899.6), milliseconds(1.23456), milliseconds(663.0)) == ("12900", "1.235", "663")
    values = {"accuracy": 0.9997, "accuracy_low": 0.9996, "accuracy_high": 1.0}
    assert percent(values, "accuracy") == "99.97 [99.96, 100.00]"
    (one,) = evaluate(model, batches, ratios=0.5)
    single = dataclasses.replace(one, timing=Timing(72.0, 60.0, 1.2, 1.2, 1.2, 1))
    assert "Times: of one batch" in " ".join(str(Evaluations((single,))).split())


def test_the_timer_alternates_and_warms_up(model, batches):
    seen = []
    timer = DenseMergedTimer(model, warmup=2)
    with pytest.raises(ValueError, match="Nothing was timed"):
        timer.result()
    for _ in range(3):
        dense, merged = timer.run(lambda: seen.append(model.vit.pitome.enabled) or seen[-1])
        assert (dense, merged) == (False, True)
    assert seen == [False, True] * 2 + [False, True] + [True, False] + [False, True]
    result = timer.result()
    assert result.rounds == 3 and result.speedup_low <= result.speedup <= result.speedup_high
    assert "3 rounds" in str(result)
