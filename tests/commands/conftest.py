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

import random
import sys

import pytest
import torch
from datasets import Dataset
from optimum.commands.optimum_cli import main
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTForImageClassification,
    ViTImageProcessorPil,
)
from zoo.vit import vit_config


ANIMALS = ("cat", "dog", "bird")


@pytest.fixture
def optimum_cli(monkeypatch, capsys):
    """Runs a command line in this process; returns what it wrote to stdout, or to stderr if it is to fail. What it
    wrote to stderr is added to `optimum_cli.errors`."""

    def run(*args, code=0):
        monkeypatch.setattr(sys, "argv", ["optimum-cli", *map(str, args)])
        try:
            main()
            found = 0
        except SystemExit as stop:
            found = stop.code or 0
        output = capsys.readouterr()
        run.errors.append(output.err)
        assert found == code, output.err
        return output.out if code == 0 else output.err

    run.errors = []
    return run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """`pets/` with pictures, `reviews.csv`, and a classifier for each."""
    folder, generator = tmp_path_factory.mktemp("workplace"), random.Random(0)
    torch.manual_seed(0)
    config = vit_config()
    config.id2label, config.label2id = (
        dict(enumerate(("cat", "dog", "bird"))),
        {name: i for i, name in enumerate(("cat", "dog", "bird"))},
    )
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    for animal in ANIMALS:
        (folder / "pets" / "test" / animal).mkdir(parents=True)
        for index in range(4):
            Image.effect_noise((40, 40), 20 + 20 * index).save(folder / "pets" / "test" / animal / f"{index}.png")
    words = "abcdefgh"
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, **{w: i + 2 for i, w in enumerate(words)}}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        folder / "bert"
    )
    names = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    sizes = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, **names)).save_pretrained(folder / "bert")
    texts = [" ".join(generator.choices(words, k=4 + index)) for index in range(12)]
    rows = [f"{text},{'good' if index % 2 else 'bad'}" for index, text in enumerate(texts)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *rows]))
    columns = {"first": texts, "second": texts[::-1], "label": [index % 2 for index in range(12)]}
    Dataset.from_dict(columns).save_to_disk(folder / "pairs")
    return folder


@pytest.fixture
def in_workplace(optimum_cli, workplace, monkeypatch):
    """Runs a command in the workplace, a few samples at a time."""
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workplace / "cache")

    def run(command, *args, **kwargs):
        return optimum_cli("pitome", command, *args, "--batch-size", 4, **kwargs)

    return run
