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

"""Data sets that are evaluated: their columns, answers and pictures, and what is said of those that cannot be read."""

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import BertConfig
from zoo.llava import picture

from optimum_pitome.evaluation.columns import accepted_answers, class_indices, find_columns, group_captions, texts_of
from optimum_pitome.evaluation.data import Batches, load_labelled
from optimum_pitome.evaluation.questions import rgb


def test_rows_without_what_the_task_needs():
    columns = {"image": [picture(0), None], "question": ["w5", "w6"], "answers": [["w1"], []], "label": ["cat", None]}
    features = Features(
        image=ImageFeature(), question=Value("string"), answers=Sequence(Value("string")), label=Value("string")
    )
    data = Dataset.from_dict(columns, features)
    with pytest.raises(ValueError, match=r"column 'answers' of 1 rows \(the first is row 1\)"):
        accepted_answers(data, "answers")
    with pytest.raises(ValueError, match=r"column 'answers' of 1 rows \(the first is row 1\)"):
        group_captions(data, "image", "answers")
    with pytest.raises(ValueError, match="column 'label' of 1 rows"):
        class_indices(data, "label", BertConfig())
    with pytest.raises(ValueError, match="A row has no picture"):
        rgb(data["image"])
    with pytest.raises(ValueError, match="column 'question' does not hold pictures. Pictures come from"):
        find_columns(data, "question", ["question", "answers"])
    with pytest.raises(ValueError, match="there is no column of pictures: question. Pictures come from"):
        find_columns(data.select_columns("question"), "caption")
    classes = Dataset.from_dict({"label": [1, 0]}, Features(label=ClassLabel(names=["cat", "dog"])))
    assert accepted_answers(classes, "label") == [["dog"], ["cat"]] and texts_of(2) == ["2"]
    assert texts_of("yes") == ["yes"] and texts_of([{"answer": "a"}, {"answer": "b"}]) == ["a", "b"]


@pytest.mark.parametrize("name, reason", [("cut.png", "truncated"), ("words.png", "it is no picture")])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, name, reason):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-900])
    (tmp_path / "words.png").write_text("no picture")
    files = {"image": [str(tmp_path / "whole.png"), str(tmp_path / name)]}
    rows = Dataset.from_dict(files).cast_column("image", ImageFeature())
    with pytest.raises(ValueError, match=f"{name} cannot be read: .*{reason}.*Remove the file, or leave its row out"):
        list(Batches(rows, ["image"], {}, 2, lambda images: {"images": images}))


def test_data_without_labels_and_without_files(tmp_path):
    pictures = Dataset.from_dict({"image": []}).cast_column("image", ImageFeature())
    with pytest.raises(ValueError, match="no labels, only the column image.*one sub-folder per class.*min-agreement"):
        find_columns(pictures, "image")
    with pytest.raises(ValueError, match="nothing in this folder can be read. Expected one sub-folder of pictures"):
        load_labelled(str(tmp_path))


def test_configurations_of_folders(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.csv").write_text(f"text\n{name}\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("first", "second"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert load_labelled(str(tmp_path), "second")[0]["text"] == ["second"]
    with pytest.raises(ValueError, match="BuilderConfig 'third' not found"):
        load_labelled(str(tmp_path), "third")
    with pytest.raises(ValueError, match="configuration 'second': .*first.csv is a data set without configurations"):
        load_labelled(str(tmp_path / "first.csv"), "second")
    with pytest.raises(ValueError, match="revision 'main': .* lies on this machine and has no revisions"):
        load_labelled(str(tmp_path), "second", revision="main")
