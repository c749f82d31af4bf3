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

import json
import sys

import pytest
import small_llava
import torch
import visual_question_answering
from datasets import Dataset, Features, Image, Sequence, Value
from families.llava_helpers import build
from zoo.llava import NUM_PATCHES, make_processor, picture

from optimum_pitome.evaluation.metrics import VqaAccuracy, normalize_answer, wilson_interval


def test_answers_are_compared_as_the_task_does():
    assert normalize_answer("A bag.") == normalize_answer("the Bag") == "bag"
    assert normalize_answer("Two dogs") == "2 dogs" and normalize_answer("it's") == "its"


@pytest.mark.parametrize(
    "prediction, answers, expected",
    [
        ("yes", ["Yes"], 1.0),
        ("yes", ["no"], 0.0),
        ("2", ["two"] * 3 + ["three"] * 7, 0.9),  # 3 of 10: the three who said so find two others
        ("2", ["two"] * 4 + ["three"] * 6, 1.0),
        ("2", ["two"] + ["three"] * 9, 0.3),
        ("cat", ["dog", "cat"], 0.5),
    ],
)
def test_vqa_accuracy(prediction, answers, expected):
    result = VqaAccuracy().compute(predictions=[prediction], references=[answers])
    assert result["vqa_accuracy"] == pytest.approx(expected)
    # As wide as for right and wrong answers with this mean, which no rounding moves.
    assert (result["vqa_accuracy_low"], result["vqa_accuracy_high"]) == pytest.approx(wilson_interval(expected, 1))


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
    arguments = ["--model", str(checkpoint), "--ratios", "0.9", "0.8", "--batch-size", "2", "--max-new-tokens", "3"]
    monkeypatch.setattr(
        sys, "argv", ["visual_question_answering.py", *arguments, "--output-dir", str(tmp_path / "out")]
    )
    visual_question_answering.main()
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [result["ratio"] for result in results] == [1.0, 0.9, 0.8]
    assert [result["image_tokens"] for result in results] == [NUM_PATCHES, 64 - 6 - 5 - 5, 34]
    assert results[0]["same_answers"] == 1.0
    assert all(result["prefill"] < result["time_to_first_token"] for result in results)
    assert "VQA accuracy" in capsys.readouterr().out


def test_a_data_set_of_another_form_is_refused(checkpoint, tmp_path, monkeypatch):
    Dataset.from_dict({"picture": [1], "question": ["w5"]}).save_to_disk(str(tmp_path / "data"))
    arguments = ["--model", str(checkpoint), "--dataset", str(tmp_path / "data")]
    monkeypatch.setattr(sys, "argv", ["visual_question_answering.py", *arguments])
    with pytest.raises(SystemExit, match="expected image, question"):
        visual_question_answering.main()


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
