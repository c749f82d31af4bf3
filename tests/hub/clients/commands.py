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

"""Runs commands that push, as a user would: `commands.py FOLDER`, which is empty."""

import contextlib
import io
import json
import os
import random
import sys
from pathlib import Path

import torch
from common import answer, attempt
from optimum.commands.optimum_cli import main
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from optimum_pitome import load_exported
from optimum_pitome.export.formats import WRITERS, Format


def command(*words):
    """The exit code, and the document or the error."""
    sys.argv = ["optimum-cli", "pitome", *map(str, words), "--json", "--quiet"]
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    return code, json.loads(out.getvalue()) if code == 0 else errors.getvalue()


def outputs(run):
    inputs = {"input_ids": torch.tensor([[2, 3, 3, 3, 4, 5, 5, 6]])}
    inputs |= {"attention_mask": torch.ones(1, 8, dtype=torch.long), "token_type_ids": torch.zeros(1, 8).long()}
    with torch.no_grad():
        return [round(value, 4) for value in run(**inputs)["logits"][0].tolist()]


def write(module, example, opset, path):
    torch.save(module, path)


def load(path):
    module = torch.load(path, weights_only=False)
    return lambda inputs: module(**inputs)


# A format that is quick to write. Real ones are tested in tests/export.
WRITERS["torch"] = Format("model.pt2", write, load)
os.chdir(sys.argv[1])
torch.manual_seed(0)
words = "abcdefgh"
tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, **{word: i + 2 for i, word in enumerate(words)}}))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
sizes = {"vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
model = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=40))
for parameter in model.parameters():  # so that what merges shows
    parameter.data += 0.3 * torch.randn_like(parameter)
model.push_to_hub("me/bert")
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").push_to_hub("me/bert")
texts = [" ".join(random.Random(seed).choices(words, k=4 + seed)) for seed in range(8)]
Path("reviews.csv").write_text("\n".join(["text", *texts]))

search = ("--dataset", "reviews.csv", "--flops-ratio", 1.1, "--max-settings", 6, "--min-tokens", 2)
found = {
    "tune": command("tune", "me/bert", *search, "--push-to-hub", "me/tuned", "--private"),
    "export": command("export", "me/tuned", "--format", "torch", "-o", "out", "--push-to-hub", "me/bert-torch"),
    # Beside the recipe, which stays.
    "beside": command("export", "me/tuned", "--format", "torch", "-o", "beside", "--push-to-hub", "me/tuned"),
    "tune over a model": command("tune", "me/bert", *search, "--push-to-hub", "me/bert"),
    "of somebody else": command("tune", "me/bert", *search, "--push-to-hub", "you/tuned"),
    "exported already": command("export", "me/bert-torch", "--format", "torch", "-o", "again"),
    "recipe": outputs(AutoModelForSequenceClassification.from_pretrained("me/tuned")),
    "dense": outputs(AutoModelForSequenceClassification.from_pretrained("me/bert")),
    "runtime": [outputs(load_exported(name)) for name in ("me/bert-torch", "me/tuned", "out")],
    "no export": attempt(lambda: load_exported("me/bert")),
    "another format": attempt(lambda: load_exported("me/tuned", "onnx")),
}
model.save_pretrained("local")
PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained("local")
found["of a folder"] = command("tune", "local", *search, "--push-to-hub", "me/local")
answer(found)
