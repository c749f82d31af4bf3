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

"""The visual question answering example on a tiny checkpoint, and the parts of its training."""

import functools

import pandas
import pytest
import small_llava
import torch
import visual_question_answering
from datasets import Dataset, Features, Image, Sequence, Value
from example_runs import results, run_here
from families.llava_helpers import build
from zoo.llava import NUM_PATCHES, make_processor, picture


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "model"
    build().save_pretrained(directory)
    make_processor().save_pretrained(directory)
    rows = {
        "image": [picture(seed) for seed in range(5)],
        "question": [f"w{seed} w20" for seed in range(5, 10)],
        "answers": [[f"w{seed}", "w3"] for seed in range(5, 10)],
    }
    features = Features(image=Image(), question=Value("string"), answers=Sequence(Value("string")))
    Dataset.from_dict(rows, features).save_to_disk(str(directory / "questions"))
    return directory


def test_the_script(checkpoint, tmp_path, monkeypatch, capsys):
    arguments = ["--model", checkpoint, "--ratios", "0.9", "0.8", "--batch-size", "2", "--max-new-tokens", "3"]
    run_here(monkeypatch, visual_question_answering, *arguments, "--output-dir", tmp_path)
    first, second = results(tmp_path)
    assert (first["name"], second["name"]) == ("0.9", "0.8") and "vqa_accuracy" in first["difference"]
    phases = pandas.read_csv(tmp_path / "phases.csv", index_col=0)
    assert list(phases.index.astype(str)) == ["dense", "0.9", "0.8"]
    # The prompt loses what the images lose.
    lost = (phases["prompt tokens"].iloc[0] - phases["prompt tokens"]).tolist()
    assert lost == [0, NUM_PATCHES - (64 - 6 - 5 - 5), NUM_PATCHES - 34]
    assert (phases["prefill, ms"] < phases["first token, ms"]).all() and (phases["ms per token"] > 0).all()
    printed = capsys.readouterr().out
    assert "VQA accuracy" in printed and "peak MB" in printed


def test_random_weights_with_a_prompt_of_llava(monkeypatch, tmp_path):
    smaller = functools.partial(visual_question_answering.random_llava, side=56)
    monkeypatch.setattr(visual_question_answering, "random_llava", smaller)
    options = ["--random", "--max-samples", "2", "--ratios", "0.9", "--max-new-tokens", "2", "--output-dir", tmp_path]
    run_here(monkeypatch, visual_question_answering, *options)
    (found,) = results(tmp_path)
    assert found["settings"]["preset"] == "official" and found["merged"] == {}


def test_a_data_set_of_another_form_is_refused(checkpoint, tmp_path, monkeypatch):
    Dataset.from_dict({"picture": [1], "question": ["w5"]}).save_to_disk(str(tmp_path / "data"))
    arguments = ["--model", checkpoint, "--dataset", tmp_path / "data", "--output-dir", tmp_path]
    with pytest.raises(ValueError, match="there is no column of pictures"):
        run_here(monkeypatch, visual_question_answering, *arguments)


def test_questions_that_share_a_sequence_do_not_see_each_other():
    model, processor = build(), make_processor()
    features = torch.randn(1, NUM_PATCHES, 32)
    questions = [("w5 w6", "w7"), ("w8", "w9 w10"), ("w11 w12 w13", "w14")]

    def run(asked):
        text = small_llava.encode_questions(processor, [asked], NUM_PATCHES)
        embed = model.get_input_embeddings()
        start = embed(torch.tensor([[1]]))
        output = model.model.language_model(
            inputs_embeds=torch.cat([start, features, embed(text["input_ids"])], dim=1),
            attention_mask=text["attention_mask"],
            position_ids=text["position_ids"],
        )
        return output.last_hidden_state[0, 1 + NUM_PATCHES :]

    with torch.no_grad():
        together = run(questions)
        alone = torch.cat([run([question]) for question in questions])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_projector_starts_from_standardised_features():
    model = build()
    features = 3.0 + 5.0 * torch.randn(50, NUM_PATCHES, 32)
    small_llava.standardize_projector(model, features)
    with torch.no_grad():
        projected = model.model.multi_modal_projector.linear_1(features)
    assert projected.mean().abs() < 0.1 and 0.5 < projected.std() < 2.0
