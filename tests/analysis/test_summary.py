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

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import output_capturing
from zoo import all_cases
from zoo.llava import llava_config, vipllava_config

from optimum_pitome import PiToMeConfig, apply_pitome, num_image_tokens, pitome_summary
from optimum_pitome.modeling.operations import linear_weights, prefill


# hidden size, layers, image, patch → the GFLOPs of the paper at each ratio, tokens left at .9
RATIOS = (1.0, 0.975, 0.95, 0.925, 0.9)
PAPER = {
    "DeiT-S": ((384, 12, 224, 16), (4.54, 4.00, 3.48, 3.07, 2.70), 60),
    "DeiT-B": ((768, 12, 224, 16), (17.45, 15.44, 13.48, 11.91, 10.50), 60),
    "MAE-L": ((1024, 24, 224, 16), (61.4, 47.95, 37.15, 29.84, 24.38), 21),
    "MAE-H": ((1280, 32, 224, 14), (167.1, 119.3, 86.2, 65.4, 52.2), 15),
}


def on_meta(hidden_size, num_layers, image_size, patch_size):
    config = ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        intermediate_size=4 * hidden_size,
        image_size=image_size,
        patch_size=patch_size,
    )
    with torch.device("meta"):
        return AutoModelForImageClassification.from_config(config)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_table(name):
    shape, gflops, tokens_left = PAPER[name]
    model = on_meta(*shape)
    for ratio, expected in zip(RATIOS, gflops):
        summary = pitome_summary(apply_pitome(model, PiToMeConfig.paper(ratio=ratio)), count="paper")
        assert summary.gflops_merged == pytest.approx(expected, rel=0.01)
        assert summary.gflops_dense == pytest.approx(gflops[0], rel=0.01)
    assert summary.tokens[-1] == tokens_left


def test_the_exact_count_by_hand():
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=2
    )
    model = apply_pitome(ViTForImageClassification(config), PiToMeConfig(ratio=0.75))
    first, second = pitome_summary(model).layers
    # 16 patches and CLS; a quarter of the 16 goes, then a quarter of the 12
    assert (first.tokens_in, first.tokens_out, second.tokens_in, second.tokens_out) == (17, 13, 13, 10)
    attention = 4 * 8 * 8
    assert first.gflops_dense * 1e9 == pytest.approx(17 * attention + 2 * 17**2 * 8 + 17 * 2 * 8 * 24)
    assert second.gflops_merged * 1e9 == pytest.approx(13 * attention + 2 * 13**2 * 8 + 10 * 2 * 8 * 24)
    # head mean and norm, the class token's attention, similarity and energy, weighted mean
    step = 16 * 8 + 16 * 4 + 16 * 8 + 16 * 16 * 5 + 16 * 8
    assert first.gflops_merge_step * 1e9 == pytest.approx(step)


def test_the_merge_steps_of_the_compared_methods_by_hand():
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=2
    )

    def counted(**settings):
        model = apply_pitome(ViTForImageClassification(config), PiToMeConfig(ratio=0.75, **settings))
        return [round(layer.gflops_merge_step * 1e9) for layer in pitome_summary(model).layers]

    # 16 patches to 12 to 9, keys of width 4. Head mean and norm, even against odd places; then what becomes of a pair.
    first, second = 16 * (8 + 4) + 8 * 8 * 4, 12 * (8 + 4) + 6 * 6 * 4
    assert counted(algorithm="tome") == [first + 16 * 8, second + 12 * 8]
    # The target is copied; later the mean, the norms before and after, and the scaling.
    assert counted(algorithm="tofu") == [first + 4 * 8, second + 12 * 8 + (12 + 2 * 9) * 8]
    # The class token's attention, and what goes against what stays.
    assert counted(algorithm="diffrate")[0] == 16 * (8 + 4) + 16 * 8 + 4 * 12 * 4 + 16 * 8
    # Two matrices, to the spectrum and back. Nothing is compared.
    assert counted(algorithm="dct")[0] == 12 * (16 + 12) + 12 * 16 * 8 + 12 * 12 * 8


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_counted_tokens_are_the_ones_that_run(case):
    model, inputs = apply_pitome(case.build(), 0.8), case.inputs(1)
    seen = []
    encoder = next(module for module in model.modules() if "pitome" in vars(module))
    architecture = encoder.pitome.architecture
    whole = architecture.layer_class.returns_every_token
    if whole:  # only the layers themselves see the tokens that are left
        encoder.pitome.watch = lambda record: seen.append((record.features.shape[1], record.plan.kept.shape[1]))
    for layer in [] if whole else architecture.find_layers(encoder):
        layer.register_forward_hook(
            lambda module, args, output: seen.append(
                (args[0].shape[1], (output[0] if isinstance(output, tuple) else output).shape[1])
            )
        )
    with torch.no_grad():
        model(**inputs)
    summary = pitome_summary(model, num_tokens=seen[0][0])
    counted = [(layer.tokens_in, layer.tokens_out) for layer in summary.encoders[0].layers]
    # Texts are counted as pairs, whose inner separators never merge; single ones have none.
    most = 0 if architecture.special_tokens is None else 2
    assert len(counted) == len(seen)
    for of_count, of_run in zip(counted, seen):
        assert all(0 <= more - less <= most for more, less in zip(of_count, of_run)), (counted, seen)


def test_it_prints_a_table():
    text = str(pitome_summary(apply_pitome(on_meta(384, 12, 224, 16), 0.9)))
    assert text.splitlines()[0].endswith(": GFLOPs per sample, counted at 197 tokens (exact count, multiply-add = 1)")
    assert "197 -> 178" in text and "fewer operations" in text and len(text.splitlines()) == 19
    assert "settings: ratio=0.9, layers=all, algorithm=pitome, energy=nearest, metric=keys, importance=0.5,\n" in text
    assert "min_tokens=0" in text and "special tokens, which never merge: up to 1 in a sample" in text


@pytest.mark.parametrize("case", [case for case in all_cases() if case.id.endswith("Model")], ids=lambda case: case.id)
def test_what_is_printed_fits_a_terminal(case):
    """100 columns, whatever the model."""
    model = apply_pitome(case.build(), 0.8)
    lines = [*str(pitome_summary(model)).splitlines(), *repr(model).splitlines()]
    assert max(map(len, lines)) <= 100 and any("share of the tokens" in line for line in lines)


def test_many_ratios_fit_a_terminal():
    model = apply_pitome(on_meta(1280, 32, 224, 14), {"flops_ratio": 1.8})
    lines = [*str(pitome_summary(model)).splitlines(), *repr(model).splitlines()]
    assert max(map(len, lines)) <= 100 and len(repr(model).splitlines()) < 45


def test_resolved_settings():
    """What merges, and how: defaults, presets and lists resolved."""
    model = on_meta(64, 4, 32, 16)
    settings = pitome_summary(apply_pitome(model, {"ratio": [0.9, 1, 0.8, 0.7], "min_tokens": 3})).settings
    expected = {"ratio": [0.9, 0.8, 0.7], "layers": [0, 2, 3], "algorithm": "pitome", "energy": "nearest"}
    expected |= {"metric": "keys", "importance": 0.5, "min_tokens": 3, "proportional_attention": True}
    assert settings == {**expected, "unmerge": True, "protect_token_ids": []}
    settings = pitome_summary(apply_pitome(model, PiToMeConfig.official(0.9))).settings
    assert settings["algorithm"] == ["pitome_unprotected"] * 2 + ["pitome"] * 2
    assert settings["margin"] == pytest.approx([0.75, 0.5625, 0.375, 0.1875]) and settings["importance"] == 0.0
    assert pitome_summary(apply_pitome(model, 1.0)).settings == {"ratio": 1.0}


#: Before transformers 5.24 a tower is asked for all of its hidden states, so all of its layers run.
needs_selection = pytest.mark.skipif(
    not hasattr(output_capturing, "select_hidden_states"), reason="nobody says which hidden states are read"
)


@pytest.mark.parametrize("make", [llava_config, vipllava_config])
def test_image_tokens_of_a_llava(make):
    """The count is the same whether or not the last layers run."""
    model = AutoModelForImageTextToText.from_config(make(), pitome=0.8)
    assert pitome_summary(model).reader.image_tokens_merged == num_image_tokens(model) < 64


@needs_selection
@pytest.mark.parametrize("unmerge", [False, True])
@pytest.mark.parametrize("make", [llava_config, vipllava_config, lambda: llava_config("siglip")])
def test_a_llava_by_hand(make, unmerge):
    """The tower, the layers of it that nothing reads, the prompt, and the whole: each apart."""
    config = make()
    layer = "vision_feature_layers" if hasattr(config, "vision_feature_layers") else "vision_feature_layer"
    setattr(config, layer, [-3, -2] if config.model_type == "vipllava" else -2)
    model = AutoModelForImageTextToText.from_config(config, pitome={"ratio": 0.8, "unmerge": unmerge})
    summary = pitome_summary(model, num_text_tokens=5)
    assert [layer.runs for layer in summary.layers] == [True, True, True, False]
    one = summary.layers[0].gflops_dense
    assert summary.gflops_dense == pytest.approx(3 * one) and summary.gflops_skipped == pytest.approx(one)
    assert summary.layers[3].gflops_merged == 0 and summary.tokens[3] == summary.tokens[4]
    reader, language_model = summary.reader, model.model.language_model
    dropped = 0 if config.model_type == "llava" and config.vision_feature_select_strategy == "full" else 1
    assert reader.image_tokens_dense == summary.tokens[0] - dropped == 64
    assert reader.image_tokens_merged == num_image_tokens(model) == (64 if unmerge else summary.tokens[-1] - dropped)
    projector = linear_weights(model.model.multi_modal_projector)
    for tokens, gflops in ((64, reader.gflops_dense), (reader.image_tokens_merged, reader.gflops_merged)):
        assert gflops * 1e9 == pytest.approx(tokens * projector + prefill(language_model, tokens + 5))
    assert summary.gflops_whole_dense == pytest.approx(4 * one + reader.gflops_dense)
    own = summary.gflops_merged + summary.gflops_merge_step
    assert summary.gflops_whole_merged == pytest.approx(own + reader.gflops_merged)
    assert summary.flops_ratio == pytest.approx(3 * one / own)  # no credit for what is not run
    text = str(summary)
    for part in (
        "not run, since nothing reads it: layer 3",
        f"image tokens: 64 -> {reader.image_tokens_merged}",
        "model.language_model: prefill of an image and 5 tokens of text",
        "tower and language model: ",
    ):
        assert part in text
    with pytest.raises(ValueError, match="num_text_tokens=-1: expected a whole number of at least 0"):
        pitome_summary(model, num_text_tokens=-1)


def test_it_says_when_merging_does_not_pay():
    model = ViTForImageClassification(ViTConfig(hidden_size=8, num_attention_heads=1, intermediate_size=1))
    apply_pitome(model, PiToMeConfig(ratio=0.99, metric="hidden_states", layers=[11]))
    assert "costs more operations than it saves" in str(pitome_summary(model))


@pytest.mark.parametrize("number", [np.int64, torch.tensor])
def test_numbers_of_numpy_and_torch(number):
    model = apply_pitome(on_meta(64, 2, 32, 16), 0.9)
    for length in (20, [20]):
        given = [number(20)] if isinstance(length, list) else number(20)
        summary = pitome_summary(model, num_tokens=given, num_text_tokens=number(32))
        assert summary == pitome_summary(model, num_tokens=length)


def test_errors():
    model = on_meta(64, 2, 32, 16)
    with pytest.raises(ValueError, match="is dense. Rewrite it first"):
        pitome_summary(model)
    apply_pitome(model, 0.9)
    with pytest.raises(ValueError, match="count='papers' is not known. Accepted: 'exact', 'paper'"):
        pitome_summary(model, count="papers")
    with pytest.raises(ValueError, match="num_tokens=0"):
        pitome_summary(model, num_tokens=0)
