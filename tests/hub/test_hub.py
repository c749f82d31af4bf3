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

"""Push and pull with the real client over HTTP, each pull in a new process with an empty cache."""

import json
import re

import pytest
from huggingface_hub import ModelCard


@pytest.fixture(scope="module")
def expected(client, tmp_path_factory):
    """The outputs of the models before they were pushed."""
    return client("push.py", tmp_path_factory.mktemp("trainer"))


@pytest.fixture(autouse=True)
def every_test_needs_them(expected):
    pass


def card(hub, repository, revision="main"):
    return ModelCard(hub.files(repository, revision)["README.md"].decode())


def test_everything_comes_back_as_it_was(client, expected):
    found = client("pull.py")
    found.setdefault("pipeline", expected["0.8"])
    assert found == {
        "merged": expected["0.8"],
        "merged, stronger": expected["0.6"],
        "merged, stronger, at 0.8": expected["0.8"],
        "merged, dense": expected["dense"],
        "dense, at 0.8": expected["0.8"],
        "secret": expected["0.6"],
        "recipe": expected["0.6"],
        "recipe, v1": expected["0.8"],
        "recipe, v1, at 0.6": expected["0.6"],
        "recipe, dense": expected["dense"],
        "trained": expected["trained"],
        "trained, dense": expected["trained, dense"],
        "pipeline": expected["0.8"],
    }
    assert expected["0.8"] != expected["dense"] != expected["0.6"] != expected["0.8"]


def test_settings_of_whoever_runs_the_tests_do_not_reach_the_clients(client, expected, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HUB_CACHE", "nowhere")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client("plain.py")["me/merged"] == expected["dense"]


def test_recipes(client, hub, expected):
    found = client("recipes.py")
    for name, error in found.pop("circles").items():
        chain = "PiToMe recipes that name each other never come to a model: me/a -> me/b -> me/a."
        assert error[0] == "ValueError" and error[1].startswith(chain), name
    # Some requests for each of the ways to load; there were hundreds for one.
    assert len([request for request in hub.requests if re.match("(GET|HEAD) (/api/models)?/me/[ab]/", request)]) < 150
    wanted = {"recipe": "0.6", "branch": "0.6", "subfolder": "0.6", "from disk": "0.6", "offline": "0.6"}
    wanted |= {"of a recipe": "0.8", "of a private model": "0.8", "dense": "dense"}
    assert found == {name: [expected[ratio]] * 3 for name, ratio in wanted.items()}


def test_without_the_package_they_are_dense(client, expected):
    assert client("plain.py") == {"me/merged": expected["dense"], "me/trained": expected["trained, dense"]}


def test_what_lies_on_the_hub(hub):
    assert sorted(hub.files("me/recipe")) == ["README.md", "config.json"]
    assert sum(len(data) for path, data in hub.files("me/recipe").items() if path == "config.json") < 1024
    assert sorted(hub.files("me/merged")) == ["README.md", "config.json", "model.safetensors"]
    assert hub.files("me/merged")["model.safetensors"] == hub.files("me/base")["model.safetensors"]
    assert json.loads(hub.files("me/trained")["config.json"])["pitome"]["ratio"] == 0.7
    assert not [path for path in hub.files("me/trained") if path.startswith("checkpoint-")]
    # The weights of the rewritten model were there already: nothing was uploaded twice.
    uploads = [request for request in hub.requests if request.startswith("PUT")]
    assert len(uploads) == len(set(uploads))


@pytest.mark.parametrize("repository", ["me/merged", "me/recipe"])
def test_cards_come_with_the_first_commit(hub, repository):
    found = card(hub, repository)
    assert found.data.library_name == "transformers" and found.data.tags == ["pitome"]
    assert found.data.base_model == "me/base" and found.data.eval_results is None
    assert f'from_pretrained("{repository}")' in found.text and found.text.endswith("<!-- pitome:end -->\n")
    assert len(hub.titles(repository)) == 2  # one for each push


def test_a_card_follows_the_settings(hub):
    assert '"ratio": 0.6' in card(hub, "me/recipe").text and '"ratio": 0.8' in card(hub, "me/recipe", "v1").text
    assert '"ratio": 0.8' in card(hub, "me/merged").text
    assert '"ratio": 0.6' in card(hub, "me/merged", "stronger").text
    assert '"ratio": 0.6' in card(hub, "me/secret").text


def test_a_card_carries_what_was_measured(hub):
    results = {(r.metric_type, r.metric_config): r for r in card(hub, "me/measured").data.eval_results}
    assert {"accuracy", "gflops", "latency"} <= {metric for metric, which in results if which == "dense"}
    assert results["gflops", "merged"].metric_value < results["gflops", "dense"].metric_value
    assert results["accuracy", "merged"].dataset_args == {"num_samples": 2, "command": "optimum-cli pitome ..."}
    assert "optimum-cli pitome ..." in card(hub, "me/measured").text and len(hub.titles("me/measured")) == 2
    assert not hub.files("me/measured")["README.md"].count(b"More Information Needed")


def test_a_model_that_is_dense_again_says_nothing_of_merging(hub):
    assert b"pitome" not in hub.files("me/dense-again")["README.md"] + hub.files("me/dense-again")["config.json"]


def test_a_card_that_somebody_wrote_stays(hub):
    found = card(hub, "me/handwritten")
    assert found.text.startswith("Written by hand.\n\n<!-- pitome:start") and found.data.license == "mit"
    assert found.data.tags == ["pitome"] and found.text.count("## Token merging") == 1


def test_the_card_of_a_trained_model(hub):
    found = card(hub, "me/trained")
    assert {"pitome", "generated_from_trainer"} <= set(found.data.tags) and found.data.base_model == "me/base"
    assert '"ratio": 0.7' in found.text and found.data.library_name == "transformers"


def test_what_is_private_and_what_is_missing(client, hub):
    recipe = hub.repositories["me/recipe"]
    files = recipe.commits[recipe.resolve("main")]
    text = files["config.json"].data.replace(b"me/base", b"me/secret")
    other = type(recipe)("me/recipe-of-secret", private=False)
    other.commit("main", {"config.json": type(files["config.json"])(text)}, "a recipe")
    hub.repositories["me/recipe-of-secret"] = other
    found = client("refused.py", token=None)
    for name in ("private", "private, with settings", "config", "recipe of a private model"):
        assert found[name][0] == "OSError" and "me/secret is not a local folder" in found[name][1]
        assert "private repository" in found[name][1] and "hf auth login" in found[name][1]
    for name, revision in (("", "v9"), (" of a recipe", "v9"), (" of a dense model", "v1")):
        assert found[f"revision{name}"][0] == "OSError"
        assert f"{revision} is not a valid git identifier" in found[f"revision{name}"][1]
    for name in ("push", "push of a recipe"):
        assert "401" in found[name][1]
    del hub.repositories["me/recipe-of-secret"]


def test_a_hub_that_fails_in_mid_upload(client, hub, tmp_path):
    lost, broken, refused = client("failing_upload.py", tmp_path)
    for name, message in (lost, broken):
        assert name == "RuntimeError" and "Error while uploading 'model.safetensors' to the Hub" in message
    assert refused[0] == "HfHubHTTPError" and "500" in refused[1] and "This failure was asked for" in refused[1]
    for index in range(3):  # nothing of the first attempt, all of the second
        assert hub.titles(f"me/upload-{index}") == ["Upload ViTForImageClassification"]
        assert sorted(hub.files(f"me/upload-{index}")) == ["README.md", "config.json", "model.safetensors"]


def test_a_download_that_ends_early(client, hub):
    asked = len(hub.requests)
    name, message = client("failing_download.py")
    assert name == "OSError" and "Consistency check failed: file should be of size" in message
    # The one that was cut off went on from where it was.
    assert [r for r in hub.requests[asked:] if "me/merged" in r and r.endswith("model.safetensors 206")]
