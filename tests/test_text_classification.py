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

"""The text classification example, as a user starts it: on files of texts, with and without labels, and on two
processes; and sentence-transformers on a rewritten encoder."""

import pytest
import real_assets
import text_classification
import torch
from datasets import ClassLabel, Dataset, Features, Value
from example_data import generated_reactions
from example_runs import assert_two_processes_give_the_numbers_of_one, results, run_here
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from zoo.text import CLS, PAD, SEP, SIZES, VOCAB_SIZE

from optimum_pitome import apply_pitome, pitome_disabled


NAMES = ("low", "high")


def sentence(index: int) -> str:
    """Words of the lower or upper half of the vocabulary, as the label says: a head can learn it."""
    words = torch.randint(0, (VOCAB_SIZE - 7) // 2, (20 + index % 17,)).tolist()
    return " ".join(f"w{7 + word + (index % 2) * (VOCAB_SIZE - 7) // 2}" for word in words)


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """Two splits, as `load_dataset` reads them from a folder, with their class labels."""
    root = tmp_path_factory.mktemp("texts")
    torch.manual_seed(0)
    features = Features(text=Value("string"), label=ClassLabel(names=list(NAMES)))
    for split in ("train", "test"):
        rows = {"text": [sentence(index) for index in range(30)], "label": [index % 2 for index in range(30)]}
        Dataset.from_dict(rows, features).to_parquet(root / f"{split}.parquet")
    return root


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    sizes = {**SIZES, "num_labels": 2}
    config = BertConfig(**sizes, id2label={0: "high", 1: "low"}, label2id={"high": 0, "low": 1})
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(root)
    special = {"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": 0}
    words = {f"w{number}": number for number in range(7, VOCAB_SIZE)}
    made = Tokenizer(models.WordLevel({**special, **words}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.save_pretrained(root)
    return root


def arguments(model, data, *more):
    return ["--model", model, "--dataset", data, "--ratios", "0.8", "0.7", "--batch-size", "4", *more]


def run(monkeypatch, model, data, output, *more):
    run_here(monkeypatch, text_classification, *arguments(model, data, "--output-dir", output, *more))


def test_a_folder_of_texts(monkeypatch, capsys, tmp_path, model_folder, text_folder):
    run(monkeypatch, model_folder, text_folder, tmp_path)
    first, second = results(tmp_path)
    assert [first["name"], second["name"]] == ["0.8", "0.7"]
    assert first["num_tokens"] > first["tokens_left"] > second["tokens_left"]
    assert Image.open(tmp_path / "accuracy_against_flops.png").width > 500
    printed = capsys.readouterr().out
    assert "30 texts" in printed
    # A model this small gains nothing: that is said, too.
    slow = [row["name"] for row in (first, second) if row["timing"]["speedup"] < 1]
    assert (f"slower at {', '.join(slow)}" in printed) == bool(slow)
    # Labels are matched by name: the same numbers come out of the model by hand.
    texts = Dataset.from_parquet(str(text_folder / "test.parquet"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder)
    model = BertForSequenceClassification.from_pretrained(model_folder).eval()
    with torch.no_grad():
        predicted = model(**tokenizer(list(texts["text"]), padding=True, return_tensors="pt")).logits.argmax(-1)
    right = (predicted == 1 - torch.tensor(texts["label"])).float().mean().item()
    assert first["dense"]["accuracy"] == pytest.approx(right)


def test_a_trained_head_learns(monkeypatch, tmp_path, model_folder, text_folder):
    run(monkeypatch, model_folder, text_folder, tmp_path, "--train-head", "--max-train", 24)
    assert results(tmp_path)[0]["dense"]["accuracy"] >= 0.9


def test_budgets(monkeypatch, tmp_path, model_folder, text_folder):
    run(monkeypatch, model_folder, text_folder, tmp_path, "--flops-ratios", 1.02)
    assert [row["name"] for row in results(tmp_path)] == ["flops_ratio=1.02"]


def test_texts_without_labels(monkeypatch, capsys, tmp_path, model_folder, text_folder):
    texts = Dataset.from_parquet(str(text_folder / "test.parquet")).remove_columns("label")
    (tmp_path / "data").mkdir()
    texts.to_parquet(tmp_path / "data" / "test.parquet")
    run(monkeypatch, model_folder, tmp_path / "data", tmp_path)
    assert all(row["merged"] == {} and 0 < row["agreement"]["agreement"] <= 1 for row in results(tmp_path))
    assert "no column of class labels" in capsys.readouterr().out
    with pytest.raises(ValueError, match="these data have no labels, only the column text"):
        run(monkeypatch, model_folder, tmp_path / "data", tmp_path, "--train-head")


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(monkeypatch, tmp_path, model_folder, text_folder):
    options = arguments(model_folder, text_folder, "--train-head")
    assert_two_processes_give_the_numbers_of_one(monkeypatch, text_classification, options, tmp_path)


def test_generated_reactions():
    some = generated_reactions(50)["text"]
    assert list(some) == list(generated_reactions(50)["text"]) and len(set(some)) == 50
    assert all(text.count(">>") == 1 and "{" not in text for text in some)
    assert set(some) != set(generated_reactions(50, seed=1)["text"])


@pytest.mark.real
def test_sentence_transformers_pools_a_rewritten_encoder(tmp_path):
    """Real MiniLM and real news, short and long in one batch, through `SentenceTransformer` alone: loading, pooling,
    saving."""
    from sentence_transformers import SentenceTransformer

    pairs = real_assets.lee_similarity()
    texts = list(dict.fromkeys(pairs["sentence1"]))[:12]
    texts = [*texts, *(" ".join(text.split()[:9]) for text in texts[:4])]
    path = str(real_assets.minilm())
    model = SentenceTransformer(path, model_kwargs={"pitome": 0.8}, device="cpu")
    merged = model.encode(texts, convert_to_tensor=True)
    alone = torch.stack([model.encode(text, convert_to_tensor=True) for text in texts])
    torch.testing.assert_close(merged, alone, atol=1e-5, rtol=0)
    # The mean over the unmerged tokens, by hand.
    encoder = model[0].auto_model
    batch = model.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        by_hand = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
        torch.testing.assert_close(merged, by_hand, atol=1e-5, rtol=0)
        with pitome_disabled(encoder):
            dense = model.encode(texts, convert_to_tensor=True)
    likeness = (dense * merged).sum(dim=1)
    assert likeness[:12].min() > 0.9 and likeness[12:].min() > 0.75 and likeness.max() < 1 - 1e-4
    expected = SentenceTransformer(path, device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.equal(dense, expected)
    model.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.equal(again, merged)
    apply_pitome(model, 0.9)  # the whole SentenceTransformer is a module that contains an encoder
