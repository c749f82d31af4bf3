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

"""`optimum-cli pitome tune`, on tiny models and data on disk."""

import functools
import json
from argparse import Namespace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForSequenceClassification, VisionTextDualEncoderModel, ViTModel
from zoo.audio import ast_config
from zoo.vision_language import dual_encoder_config
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig, pitome_summary
from optimum_pitome.analysis.timing import Timing
from optimum_pitome.commands import tune as command
from optimum_pitome.commands.unlabelled import load_model
from optimum_pitome.tuning import search


@pytest.fixture
def tune(in_workplace):
    return functools.partial(in_workplace, "tune")


TEXTS = ("bert", "--dataset", "reviews.csv", "--input-columns", "text")


def test_a_recipe_and_where_it_ended(tune, tmp_path):
    command = [*TEXTS, "--flops-ratio", 1.1, "--max-settings", 12, "--min-tokens", 2, "-o", tmp_path / "recipe"]
    text = tune(*command)
    assert "settings: ratio=" in text and f"Recipe: {tmp_path / 'recipe'}" in text
    assert f" Run that in {Path.cwd()}, where the recipe's base model bert lies." in " ".join(text.split())
    assert text.splitlines()[-1].startswith("  ")  # wrapped
    recipe = PiToMeConfig.from_pretrained(tmp_path / "recipe")
    assert recipe.base_model_name_or_path == "bert" and isinstance(recipe.ratio, list) and recipe.min_tokens == 2
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "recipe")
    assert pitome_summary(model, num_tokens=10).flops_ratio >= 1.1  # the mean length of the texts
    tried = (tmp_path / "recipe" / "search.jsonl").read_text()
    assert "  found " in text and "profile balanced" in text
    assert (
        "AutoModelForSequenceClassification.from_pretrained" in ModelCard.load(tmp_path / "recipe" / "README.md").text
    )
    assert ": GFLOPs per sample, counted at 10 tokens (exact" in text
    assert "\nThe loss is the Kullback-Leibler divergence of the logits.\n" in text
    assert tune(*command) == text and (tmp_path / "recipe" / "search.jsonl").read_text() == tried
    (tmp_path / "taken").mkdir()
    PiToMeConfig(0.8, base_model_name_or_path="other").save_pretrained(tmp_path / "taken")
    assert "a recipe for other lies there" in tune(*TEXTS, "--max-loss", 9, "-o", tmp_path / "taken", code=2)


def test_an_interrupted_command_says_what_was_kept(tune, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for name, options in (("search_ratios", ("--flops-ratio", 1.1)), ("find_budget", ("--max-loss", 5.0))):
        monkeypatch.setattr(command, name, interrupted)
        kept = "for a bound is searched anew" if name == "find_budget" else "since -o names no folder"
        assert f"Interrupted: nothing was kept, {kept}.\n" in tune(*TEXTS, *options, code=130)
        if name == "find_budget":
            assert f"nothing was kept, {kept}.\n" in tune(*TEXTS, *options, "-o", tmp_path, code=130)
        else:
            kept = f"the same command goes on from {tmp_path / 'search.jsonl'}"
            assert kept in " ".join(tune(*TEXTS, *options, "-o", tmp_path, code=130).split())


def test_a_card_says_what_is_known_and_nothing_else(tune, tmp_path):
    def card(*options):
        folder = tmp_path / f"to {options[0]}"
        tune(*TEXTS, *options, f"--output={folder}")
        text = ModelCard.load(folder / "README.md").content
        assert f'from_pretrained("{folder.name}")  ' in text and "path/or/id" not in text
        assert "It loads the model that it names, `bert`, and" in text and str(tmp_path) not in text
        assert "| Encoder GFLOPs per sample, counted at 10 tokens |" in text
        assert "reviews / train" in text  # the only split
        assert "means over the samples" not in text and "Times are" not in text
        return text

    loss = "\n| Mean loss against the dense model (the Kullback-Leibler divergence of the logits) on "
    for options, inputs in (
        (("--flops-ratio", 1.1, "--max-settings", 6), "4 inputs that the evolution strategy did not see"),
        (("--max-loss", 5.0), "12 inputs"),
    ):
        text = card(*options)
        assert f"{loss}{inputs} |" in text and "intervals in brackets" not in text
    assert "intervals in brackets" in card("--min-agreement", 0.3)


@pytest.mark.parametrize("entries", [{"": 0.9}, {"": False}, {"vision_config": {"energy": "elu"}}])
def test_settings_wherever_a_checkpoint_has_them(tmp_path, entries):
    model = ViTModel(vit_config()) if "" in entries else VisionTextDualEncoderModel(dual_encoder_config())
    for part, entry in entries.items():
        (getattr(model.config, part) if part else model.config).pitome = entry
    model.save_pretrained(tmp_path)
    args = {"model": str(tmp_path), "revision": "main", "dtype": "auto", "device": "cpu"}
    _, _, settings = load_model(Namespace(**args), {"margin": 0.5})
    assert settings.pop("format_version", None) in (None, "1.2")
    assert settings == {"margin": 0.5, **(entries.get("vision_config") or {})}


def test_settings_of_several_parts_are_refused(tmp_path):
    config = dual_encoder_config()
    config.vision_config.pitome = config.text_config.pitome = {"ratio": 0.9}
    config.save_pretrained(tmp_path)
    args = {"model": str(tmp_path), "revision": "main", "dtype": "auto", "device": "cpu"}
    with pytest.raises(ValueError, match="settings for several of its parts .* one encoder. Save that part by itself"):
        load_model(Namespace(**args), {})


def test_a_bound(tune):
    text = tune(*TEXTS, "--min-agreement", 0.3)
    assert "x fewer operations: agreement" in text and "12 inputs" in text
    assert "\nOperations are counted at 512 tokens.\n" in text and "counted at 10 tokens" in text
    assert json.loads(text[text.index("{") :])["flops_ratio"] > 1
    assert json.loads(tune(*TEXTS, "--min-agreement", 0.3, "--json"))["next"] is None  # 1.05 is all that it can save
    assert "12 inputs cannot show an agreement of 0.99" in tune(*TEXTS, "--min-agreement", 0.99, code=2)
    assert "No budget keeps max_loss=1e-08" in tune(*TEXTS, "--max-loss", 1e-8, code=1)
    assert "The loss is the Kullback-Leibler divergence of the logits.\n" in tune(*TEXTS, "--max-loss", 5.0)


def test_a_speed_up(tune, tmp_path, monkeypatch):
    """With a machine on which all saved operations become saved time."""
    seen = []

    def clock(model):
        seen.append(pitome_summary(model).flops_ratio)
        return Timing(100.0, 100.0 / seen[-1], seen[-1], seen[-1], seen[-1], 5)

    monkeypatch.setattr(search, "timing_of", lambda batches: clock)
    text = tune(*TEXTS, "--speed-up", 1.05, "--max-settings", 8, "-o", tmp_path)
    head = json.loads((tmp_path / "search.jsonl").read_text().splitlines()[0])
    assert head["speed_up"] == 1.05 and head["flops_ratio"] > 1 and len(seen) >= 2
    assert "measured: 100 ms dense" in text and PiToMeConfig.from_pretrained(tmp_path).ratio is not None
    assert "speed_up=90 is not reached here" in tune(*TEXTS, "--speed-up", 90, code=1)
    assert "speed_up=1.0 is out of range" in tune(*TEXTS, "--speed-up", 1.0, code=2)


def test_a_speed_up_that_the_last_timing_does_not_show(tune, optimum_cli, monkeypatch):
    def run(last=None, at_last=None):
        """What is found, and how many timings there were; the one at `last` shows `at_last`."""
        timings = []

        def clock(model):
            timings.append(at_last if len(timings) == last else pitome_summary(model).flops_ratio)
            return Timing(100.0, 100.0 / timings[-1], timings[-1], timings[-1], timings[-1], 5)

        monkeypatch.setattr(search, "timing_of", lambda batches: clock)
        tune(*TEXTS, "--speed-up", 1.05, "--max-settings", 8)
        return optimum_cli.errors[-1], len(timings)

    number = run()[1]
    assert "was measured" not in run(number - 1, 1.05)[0]
    said, again = run(number - 1, 1.0)
    assert "At the end 1.00 x was measured, less than --speed-up 1.05" in said and again == number


@pytest.mark.slow  # the floor has no AutoImageProcessor without torchvision
def test_pictures(tune):
    text = tune("vit", "--dataset", "pets", "--num-tokens", 40, "--max-settings", 6, "--max-samples", 8)
    assert "65 -> 41" in text


def test_sound_is_refused(tune, tmp_path):
    AutoModel.from_config(ast_config()).save_pretrained(tmp_path / "ast")
    error = tune(tmp_path / "ast", *TEXTS[1:], "--flops-ratio", 1.1, code=2)
    assert "ASTModel reads sound, and only models that read pictures or texts alone are taken here" in error


def test_the_folder_of_another_search(tune, optimum_cli, tmp_path):
    tune(*TEXTS, "--flops-ratio", 1.1, "--max-settings", 6, "-o", tmp_path)
    error = tune(*TEXTS, "--flops-ratio", 1.12, "--max-settings", 6, "-o", tmp_path, code=2)
    assert "belongs to another search" in error and "another folder, -o" in error
    assert "Going on with" not in error and " settings/s" not in error


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "Name one of --flops-ratio, --num-tokens, --speed-up, --min-agreement and --max-loss"),
        (["--flops-ratio", 1.2, "--max-loss", 1], "Name only one of"),
        (["--speed-up", "1,5"], "argument --speed-up: invalid float value: '1,5'. Write 1.5."),
        (["--flops-ratio", 1.2, "--speed-up", 1.5], "Name only one of"),
        (["--flops-ratio", 1.2, "--ratio", 0.9], "which is what is searched"),
        (["--flops-ratio", 50], "out of reach"),
        (["--flops-ratio", 1.1, "--profile", "late"], "a search compares the profiles itself"),
        (["--flops-ratio", 1.1, "-o", "vit"], "-o vit: a model lies there"),
        (["--num-tokens", 5], "texts of any length"),
        (["--flops-ratio", 1.1, "--max-samples", 2], "Too few inputs for a search"),
        (["--flops-ratio", 1.1, "--max-samples", 0], "--max-samples 0: expected at least 1"),
        (["--flops-ratio", 1.2, "--device", "nowhere"], "--device nowhere"),
        (["--flops-ratio", 1.1, "--input-columns", "none"], "'none' does not exist"),
    ],
)
def test_errors(tune, options, message):
    assert message in tune(*TEXTS, *options, code=2)
