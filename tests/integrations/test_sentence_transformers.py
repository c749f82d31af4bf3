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

"""sentence-transformers' other models on rewritten encoders: cross-encoders (rerankers), sparse vectors (SPLADE)."""

import pytest
import torch
from families.test_text_pipelines import TEXTS, tokenizer
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from zoo import rotary_text, text

from optimum_pitome import apply_pitome, evaluate, pitome_disabled
from optimum_pitome.modeling.rewrite import rewritten_encoders


__all__ = ["tokenizer"]
PAIRS = [("w60 w61 w62 w63", TEXTS[0]), ("w64", TEXTS[1]), ("w65 w66 w67", TEXTS[2])]
#: The families that rerankers and SPLADE models are made of.
FAMILIES = ("Bert", "XLMRoberta", "DistilBert", "ModernBert")


@pytest.fixture
def save(tmp_path, tokenizer):
    """Writes a tiny model of a class, with its tokenizer, and weights that are large enough to tell texts apart."""

    def write(name, **settings):
        torch.manual_seed(0)
        model = next(case for case in (*text.CASES, *rotary_text.CASES) if case.id == name).build()
        config = type(model.config).from_dict({**model.config.to_dict(), **settings})
        model = type(model)(config)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return write


def load(kind, path, pitome=None):
    arguments = {} if pitome is None else {"model_kwargs": {"pitome": pitome}}
    return kind(path, device="cpu", **arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cross_encoder_reranks(family, save, tmp_path):
    path = save(f"{family}ForSequenceClassification", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    dense = load(CrossEncoder, path).predict(PAIRS, convert_to_tensor=True)
    model = load(CrossEncoder, path, 1.0)
    assert torch.equal(model.predict(PAIRS, convert_to_tensor=True), dense)
    apply_pitome(model, 0.7)
    merged = model.predict(PAIRS, convert_to_tensor=True)
    assert not torch.allclose(merged, dense, atol=1e-6) and len(rewritten_encoders(model)) == 1
    for pair, score in zip(PAIRS, merged):  # whatever else is in the batch, and however long
        torch.testing.assert_close(model.predict([pair], convert_to_tensor=True)[0], score, atol=1e-5, rtol=0)
    with pitome_disabled(model):
        assert torch.equal(model.predict(PAIRS, convert_to_tensor=True), dense)
    ranked = [found["corpus_id"] for found in model.rank("w60 w61", TEXTS)]
    scores = model.predict([("w60 w61", one) for one in TEXTS])
    assert ranked == sorted(range(3), key=lambda index: -scores[index])
    model.save_pretrained(str(tmp_path / "saved"))
    again = load(CrossEncoder, str(tmp_path / "saved"))
    assert torch.equal(again.predict(PAIRS, convert_to_tensor=True), merged)


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_vectors(family, save, tmp_path):
    """SPLADE takes, for every word of the vocabulary, the largest logit over the tokens: those of merged tokens are
    equal, so nothing is counted twice."""
    path = save(f"{family}ForMaskedLM")
    dense = load(SparseEncoder, path).encode(TEXTS).to_dense()
    model = load(SparseEncoder, path, 1.0)
    assert torch.equal(model.encode(TEXTS).to_dense(), dense)
    apply_pitome(model, 0.7)
    merged = model.encode(TEXTS).to_dense()
    assert merged.shape == dense.shape and not torch.allclose(merged, dense, atol=1e-6)
    for one, vector in zip(TEXTS, merged):
        torch.testing.assert_close(model.encode([one]).to_dense()[0], vector, atol=1e-5, rtol=0)
    with pitome_disabled(model):
        assert torch.equal(model.encode(TEXTS).to_dense(), dense)
    model.save_pretrained(str(tmp_path / "saved"))
    assert torch.equal(load(SparseEncoder, str(tmp_path / "saved")).encode(TEXTS).to_dense(), merged)


@pytest.mark.parametrize("rewritten", [False, True])
def test_evaluate_takes_a_model_of_sentences(rewritten, save):
    """By the transformers model in it, which keeps its settings."""
    model = load(SentenceTransformer, save("BertModel"), 0.9 if rewritten else None)
    before = model.encode(TEXTS, convert_to_tensor=True)
    batch = model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    (one,) = evaluate(model, [batch], ratios=0.7, progress=False)
    (other,) = evaluate(model[0].auto_model, [batch], ratios=0.7, progress=False)
    assert one.name == "0.7" and one.num_samples == 3 and one.kept == other.kept and one.flops_ratio > 1
    assert torch.equal(model.encode(TEXTS, convert_to_tensor=True), before)
    assert bool(rewritten_encoders(model)) == rewritten


def test_evaluate_refuses_sentences_without_a_transformer():
    model = SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    with pytest.raises(ValueError, match="SentenceTransformer has no model of transformers in it"):
        evaluate(model, [], ratios=0.7)
