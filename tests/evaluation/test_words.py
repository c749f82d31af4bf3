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

"""Words with a class each: which columns hold them, and which tokens have their labels."""

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast

from optimum_pitome.evaluation.columns import find_columns
from optimum_pitome.evaluation.judges import IGNORED
from optimum_pitome.evaluation.words import classes_of_words, encode_words


CONFIG = BertConfig(id2label={0: "O", 1: "NAME"}, label2id={"O": 0, "NAME": 1})


def data(words=(["a", "bc"], ["c"]), tags=([0, 1], [0]), tag=ClassLabel(names=["NAME", "O"]), name="ner_tags"):
    features = Features({"id": Value("string"), "tokens": Sequence(Value("string")), name: Sequence(tag)})
    rows = {"id": [str(index) for index in range(len(words))], "tokens": list(words), name: list(tags)}
    return Dataset.from_dict(rows, features)


def tokenizer():
    pieces = {"[UNK]": 0, "[PAD]": 1, "a": 2, "b": 3, "##c": 4, "c": 5}
    found = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=found, unk_token="[UNK]", pad_token="[PAD]")


def test_columns_are_found_by_what_they_hold():
    assert find_columns(data(), "words") == ["tokens", "ner_tags"]
    assert find_columns(data(name="mine"), "words", ["tokens"], "mine") == ["tokens", "mine"]
    with pytest.raises(ValueError, match="no obvious column of tags: name it"):
        find_columns(data(name="mine"), "words", ["tokens"])
    with pytest.raises(ValueError, match="--input-columns id: expected one column, whose rows are lists of words"):
        find_columns(data(), "words", ["id"])
    with pytest.raises(ValueError, match="no obvious words column"):
        find_columns(data().remove_columns("tokens"), "words")


def test_classes_go_by_name():
    assert classes_of_words(data(), "tokens", "ner_tags", CONFIG) == [[1, 0], [1]]
    named = data(tags=[["O", "NAME"], ["O"]], tag=Value("string"))
    assert classes_of_words(named, "tokens", "ner_tags", CONFIG) == [[0, 1], [0]]
    with pytest.raises(ValueError, match="Row 1 has 1 words .tokens. and 2 classes .ner_tags."):
        classes_of_words(data(tags=[[0, 1], [0, 1]]), "tokens", "ner_tags", CONFIG)
    with pytest.raises(ValueError, match="column 'id' does not hold lists"):
        classes_of_words(data(), "tokens", "id", CONFIG)
    with pytest.raises(ValueError, match="are not those of the model"):
        classes_of_words(data(tag=ClassLabel(names=["CITY", "O"])), "tokens", "ner_tags", CONFIG)


def test_a_word_has_its_label_at_its_first_token():
    batch = encode_words(tokenizer(), [["a", "bc"], ["c"]], [[0, 1], [1]], length=8)
    assert batch["input_ids"].tolist() == [[2, 3, 4], [5, 1, 1]]
    assert batch["labels"].tolist() == [[0, 1, IGNORED], [1, IGNORED, IGNORED]]
    cut = encode_words(tokenizer(), [["a", "bc"]], [[0, 1]], length=1)
    assert cut["labels"].tolist() == [[0]]
