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

"""The fine-tuning examples, on tiny models and data in local folders."""

import json
import sys
from types import SimpleNamespace

import common
import compare_runs
import finetune_image_classification
import finetune_text_classification
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from example_data import load_parts
from PIL import Image as PILImage
from training.tiny import needs_image_processors, tiny_vit
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BitImageProcessorPil
from zoo.text import bert_config


COMMON = ["--num_train_epochs", "1", "--per_device_train_batch_size", "4", "--use_cpu", "--save_strategy", "no"]


def run(monkeypatch, module, folder, *options):
    output = folder / "out"
    arguments = ["--model", folder / "model", "--dataset", folder / "data", "--output_dir", output, *COMMON, *options]
    monkeypatch.setattr(sys, "argv", ["example", *map(str, arguments)])
    module.main()
    return json.loads((output / "results.json").read_text())


def save_splits(folder, columns, features, size):
    (folder / "data").mkdir()
    for split in ("train", "test"):
        Dataset.from_dict(columns(size), features).to_parquet(folder / "data" / f"{split}.parquet")


@needs_image_processors
def test_images(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)

    def columns(size):
        pictures = [PILImage.fromarray(generator.integers(0, 256, (36, 36, 3)).astype(np.uint8)) for _ in range(size)]
        return {"picture": pictures, "kind": [i % 3 for i in range(size)]}

    save_splits(tmp_path, columns, Features(picture=Image(), kind=ClassLabel(names=["a", "b", "c"])), 12)
    tiny_vit().save_pretrained(tmp_path / "model")
    BitImageProcessorPil().save_pretrained(tmp_path / "model")
    options = ["--image_size", "32", "--ratio", "0.8", "--eval_ratios", "1.0", "0.9", "--distill"]
    options += ["--start", "0.5", "--end", "0.75"]
    found = run(monkeypatch, finetune_image_classification, tmp_path, *options)
    assert {"eval_accuracy", "eval_r1_accuracy", "eval_r0.9_accuracy", "train_seconds_per_step"} == found.keys()
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["pitome"]["ratio"] == 0.8 and saved["id2label"] == {"0": "a", "1": "b", "2": "c"}


def test_texts(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(30))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    BertForSequenceClassification(bert_config()).save_pretrained(tmp_path / "model")

    def columns(size):
        texts = [" ".join(f"word{(i + j) % 30}" for j in range(5 + i)) for i in range(size)]
        return {"text": texts, "label": [i % 3 for i in range(size)]}

    save_splits(tmp_path, columns, Features(text=Value("string"), label=ClassLabel(num_classes=3)), 12)
    options = ["--max_length", "32", "--schedule", "random", "--ratio_range", "0.6", "1.0", "--eval_ratios", "1.0"]
    options += ["--dropout", "0"]
    found = run(monkeypatch, finetune_text_classification, tmp_path, *options)
    assert 0 <= found["eval_r1_accuracy"] <= 1
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0
    assert model.config.pitome["ratio"] == 0.8 and model.bert.encoder.layer[0].pitome_spec is not None


def test_the_options_reach_the_schedule():
    schedule = common.ScriptArguments(start=0.25, end=0.75).callback(65)._make_schedule(0)
    assert (schedule.kind, schedule.start, schedule.end) == ("linear", 0.25, 0.75)


def test_data_errors(tmp_path):
    features = Features(text=Value("string"), label=ClassLabel(num_classes=2))
    save_splits(tmp_path, lambda size: {"text": ["x"] * size, "label": [0] * size}, features, 3)
    with pytest.raises(ValueError, match="there is no column of pictures"):
        load_parts(str(tmp_path / "data"), "image", None, None)
    (tmp_path / "data" / "test.parquet").unlink()
    with pytest.raises(ValueError, match="no split 'train' beside one of 'test' or 'validation': training needs both"):
        load_parts(str(tmp_path / "data"), "text", None, None)


def test_runs_side_by_side(tmp_path, monkeypatch, capsys):
    runs = {
        "dense-0": (1.0, {"eval_accuracy": 0.9, "eval_r0.8_accuracy": 0.7}),
        "dense-1": (1.0, {"eval_accuracy": 0.8, "eval_r0.8_accuracy": 0.8}),
        "aware-0": (0.8, {"eval_accuracy": 0.85}),
        "aware-1": (0.8, {"eval_accuracy": 0.85}),
    }
    for name, (ratio, accuracies) in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"pitome": {"ratio": ratio}}))
        (tmp_path / name / "results.json").write_text(json.dumps({**accuracies, "train_seconds_per_step": 0.5}))
    monkeypatch.setattr(sys, "argv", ["compare", *(str(tmp_path / name) for name in runs)])
    compare_runs.main()
    dense, at_08, aware = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert dense == ["dense", "1.0", "85.00", "±", "5.00", "0.5"] and at_08[:3] == ["dense", "0.8", "75.00"]
    assert aware == "aware 0.8 85.00 ± 0.00 +10.00 ± 5.00 +0.00 ± 5.00 0.5".split()


def test_time_per_step_leaves_the_evaluations_out(tmp_path):
    history = [{"loss": 1.0}, {"eval_accuracy": 0.5, "eval_runtime": 2.0}, {"eval_r0.8_runtime": 1.0}]
    trainer = SimpleNamespace(
        train=lambda resume_from_checkpoint: SimpleNamespace(metrics={"train_runtime": 10.0}),
        save_model=lambda: None,
        is_world_process_zero=lambda: True,
        args=SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=None),
        state=SimpleNamespace(global_step=4, log_history=[*history, {"train_runtime": 10.0}]),
    )
    common.train(trainer)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {"eval_accuracy": 0.5, "train_seconds_per_step": 1.75}
