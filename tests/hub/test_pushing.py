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

"""`--push-to-hub` of commands, and `load_exported`, with the real client over HTTP."""

import json

import pytest
from huggingface_hub import ModelCard


pytest.importorskip("cma", reason="the commands search")


@pytest.fixture(scope="module")
def found(client, tmp_path_factory):
    return client("commands.py", tmp_path_factory.mktemp("place"))


def test_a_tuned_recipe_is_pushed_with_what_was_measured(found, hub):
    code, document = found["tune"]
    assert code == 0 and "recipe" not in document and "/me/tuned/" in document["uploaded"]
    assert hub.repositories["me/tuned"].private
    files = hub.files("me/tuned")
    assert {"README.md", "config.json"} <= files.keys() and "search.jsonl" not in files
    assert json.loads(files["config.json"])["base_model_name_or_path"] == "me/bert"
    card = ModelCard(files["README.md"].decode())
    results = {(one.metric_type, one.metric_config): one for one in card.data.eval_results}
    assert results["loss", "merged"].metric_value == pytest.approx(document["loss"], rel=1e-4)
    assert results["loss", "merged"].dataset_name == "reviews" and card.data.pipeline_tag == "text-classification"
    assert results["gflops", "merged"].metric_value < results["gflops", "dense"].metric_value
    assert card.data.base_model == "me/bert" and 'from_pretrained("me/tuned")' in card.text
    assert "optimum-cli pitome tune me/bert" in card.text
    assert " inputs that the evolution strategy did not see |" in card.text


def test_an_export_is_pushed_and_loads_in_its_runtime(found, hub):
    assert found["export"][0] == 0 and found["export"][1]["model"] == "me/tuned"
    files = hub.files("me/bert-torch")
    assert {"model.pt2", "pitome_export.json", "config.json", "tokenizer.json", "README.md"} <= files.keys()
    card = files["README.md"].decode()
    assert 'load_exported("me/bert-torch")' in card and "On inputs that were made up, 11 samples" in card
    assert found["runtime"] == 3 * [found["recipe"]] and found["recipe"] != found["dense"]


def test_an_export_beside_a_recipe_leaves_the_recipe(found, hub):
    assert found["beside"][0] == 0
    files = hub.files("me/tuned")
    assert json.loads(files["config.json"])["model_type"] == "pitome"
    assert {"exported/torch/model.pt2", "exported/torch/pitome_export.json"} <= files.keys()
    card = ModelCard(files["README.md"].decode())
    assert "lie in [`exported/torch`](exported/torch); the card in each folder says how it merges" in card.text
    assert '`optimum_pitome.load_exported("me/tuned", format="torch")` loads one' in card.text
    assert card.text.count("pitome:exports -->") == 1 and "| Mean loss against the dense model (" in card.text


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("tune over a model", 2, "a model lies there, whose config.json a recipe would replace"),
        ("of somebody else", 1, "is whole, but was not uploaded to you/tuned"),
        ("of a folder", 2, "the recipe would name local, a folder of this machine"),
        ("exported already", 2, "was exported already"),
    ],
)
def test_refusals(found, name, code, message):
    assert found[name][0] == code and message in found[name][1]


def test_what_was_not_exported(found):
    assert found["no export"][0] == "ValueError" and "me/bert holds no exported model" in found["no export"][1]
    assert "me/tuned was exported as torch, not as 'onnx'" in found["another format"][1]
