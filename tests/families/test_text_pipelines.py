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

"""transformers' pipelines on rewritten text models, with texts of different lengths in one batch. (The pipeline for
question answering is gone since transformers 5: its model is run by hand.)"""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, pipeline
from zoo import all_cases
from zoo.text import CLS, PAD, SEP, VOCAB_SIZE

from optimum_pitome import apply_pitome


TEXTS = [
    "w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20 w21 w22 w23 w24 w25 w26",
    "w30 w31 w32",
    "w40 w41 w42 w43 w44 w45 w46 w47 w48 w49",
]
CASES = {case.id: case for case in all_cases()}
FAMILIES = ("Bert", "DistilBert", "Roberta", "Electra", "MPNet", "NomicBert", "JinaEmbeddingsV3", "EuroBert")
FAMILIES += tuple(name for name in ("ModernBert", "Gte") if f"{name}Model" in CASES)


@pytest.fixture(scope="module")
def tokenizer():
    special = {"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": 0, "[MASK]": 2}
    words = {f"w{number}": number for number in range(7, VOCAB_SIZE)}
    made = Tokenizer(models.WordLevel({**special, **words}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=60,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


def model_of(name):
    return apply_pitome(CASES[name].build(), 0.7)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_classification(tokenizer, family):
    pipe = pipeline("text-classification", model=model_of(f"{family}ForSequenceClassification"), tokenizer=tokenizer)
    together = pipe(TEXTS, batch_size=3, top_k=None)
    for answers, text in zip(together, TEXTS):
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in pipe(text, top_k=None)]
        for answer, alone in zip(answers, pipe(text, top_k=None)):
            assert answer["score"] == pytest.approx(alone["score"], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_classification(tokenizer, family):
    pipe = pipeline("token-classification", model=model_of(f"{family}ForTokenClassification"), tokenizer=tokenizer)
    for entities, text in zip(pipe(TEXTS, batch_size=3), TEXTS):
        assert [entity["word"] for entity in entities] == text.split()
        for entity, alone in zip(entities, pipe(text)):
            assert entity["entity"] == alone["entity"] and text[entity["start"] : entity["end"]] == entity["word"]
            assert entity["score"] == pytest.approx(alone["score"], abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_fill_mask(tokenizer, family):
    pipe = pipeline("fill-mask", model=model_of(f"{family}ForMaskedLM"), tokenizer=tokenizer)
    texts = [text.replace(text.split()[1], "[MASK]") for text in TEXTS]
    for answers, text in zip(pipe(texts, batch_size=3), texts):
        assert [answer["token"] for answer in answers] == [answer["token"] for answer in pipe(text)]


@pytest.mark.parametrize("family", FAMILIES)
def test_feature_extraction(tokenizer, family):
    pipe = pipeline("feature-extraction", model=model_of(f"{family}Model"), tokenizer=tokenizer)
    for features, text in zip(pipe(TEXTS, batch_size=3, return_tensors=True), TEXTS):
        length = len(text.split()) + 2
        alone = pipe(text, return_tensors=True)
        assert alone.shape == (1, length, 32)
        torch.testing.assert_close(features[:, :length], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [name for name in FAMILIES if f"{name}ForQuestionAnswering" in CASES])
def test_question_answering(tokenizer, family):
    """Start and end point at tokens of the original text, for every pair in the batch."""
    model = model_of(f"{family}ForQuestionAnswering")
    questions = ["w80 w81", "w82 w83 w84 w85", "w86"]
    batch = tokenizer(questions, TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)
        assert output.start_logits.shape == output.end_logits.shape == batch["input_ids"].shape
        for row, (question, text) in enumerate(zip(questions, TEXTS)):
            alone = model(**tokenizer(question, text, return_tensors="pt"))
            length = alone.start_logits.shape[1]
            torch.testing.assert_close(output.start_logits[row, :length], alone.start_logits[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(output.end_logits[row, :length], alone.end_logits[0], atol=1e-5, rtol=0)
