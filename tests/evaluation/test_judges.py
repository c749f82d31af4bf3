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

"""Answers, retrieval, tokens and embeddings, dense against merged, on tiny models."""

import pytest
import torch
from families.llava_helpers import build
from tiny_processors import tokenizer
from transformers import BertForTokenClassification, BertModel
from zoo import vision_language
from zoo.llava import NUM_PATCHES, make_processor, picture
from zoo.text import bert_config
from zoo.vit import pixel_values

from optimum_pitome import apply_pitome, evaluate, num_image_tokens, pitome_disabled, pitome_summary
from optimum_pitome.evaluation import judges
from optimum_pitome.evaluation.judges import (
    AnswerJudge,
    ClassJudge,
    EmbeddingJudge,
    RetrievalJudge,
    pooled,
)
from optimum_pitome.evaluation.passes import find_judge
from optimum_pitome.evaluation.questions import encode_questions


@pytest.fixture
def llava():
    return apply_pitome(build(), 0.7), make_processor()


def generate(model, processor, batch):
    new = model.generate(**batch, max_new_tokens=3, do_sample=False)[:, batch["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)


def test_answers(llava):
    model, processor = llava
    questions = [f"w{index} w20" for index in range(5, 11)]
    batch = encode_questions(processor, [picture(seed) for seed in range(6)], questions)
    merged = generate(model, processor, batch)
    with pitome_disabled(model):
        dense = generate(model, processor, batch)
    assert len(set(dense)) > 1 and merged != dense and num_image_tokens(model) < NUM_PATCHES
    # Right for the dense model on all of them, and for the merged one where it says the same.
    batches = [{**batch, "answers": [[answer] for answer in dense]}]
    evaluations = evaluate(model, batches, AnswerJudge(model, processor, max_new_tokens=3))
    (evaluation,) = evaluations
    same = sum(first == second for first, second in zip(dense, merged)) / 6
    assert evaluation.metrics == ["vqa_accuracy"] and evaluation.dense["vqa_accuracy"] == 1
    assert evaluation.merged["vqa_accuracy"] == evaluation.agreement["agreement"] == pytest.approx(same)
    assert evaluation.num_samples == 6 and evaluation.num_tokens == [NUM_PATCHES + 1]
    assert evaluation.flops_ratio == pytest.approx(pitome_summary(model).flops_ratio)
    assert "VQA accuracy, %" in str(evaluations)


def test_an_instruction_stands_behind_every_question(llava):
    batch = encode_questions(llava[1], [picture(0)] * 2, ["w5", "w6 w7"], "w8")
    plain = encode_questions(llava[1], [picture(0)] * 2, ["w5", "w6 w7"])
    assert batch["input_ids"].shape[1] == plain["input_ids"].shape[1] + 1


@pytest.fixture
def dual_encoder():
    model = next(case for case in vision_language.CASES if case.id == "VisionTextDualEncoderModel").build()
    return apply_pitome(model, {"vision": 0.6, "text": 0.8})


CAPTIONS = [["a cat", "red"], ["a cat"], ["blue frog"], ["the sign", "for letter yes", "no"]]


def retrieval_batches():
    images = pixel_values(4)["pixel_values"]
    for start in (0, 2):
        captions = CAPTIONS[start : start + 2]
        texts = [text for texts in captions for text in texts]
        encoded = tokenizer()(texts, padding="max_length", max_length=8, return_tensors="pt")
        yield {"pixel_values": images[start : start + 2], **encoded, "captions": captions}


@torch.no_grad()
def recall_at_1(model):
    """By hand: every picture for every caption; `a cat` belongs to two pictures."""
    outputs = [model(**{k: v for k, v in batch.items() if k != "captions"}) for batch in retrieval_batches()]
    images = torch.nn.functional.normalize(torch.cat([output.image_embeds for output in outputs]), dim=-1)
    texts = torch.nn.functional.normalize(torch.cat([output.text_embeds for output in outputs]), dim=-1)
    flat = [text for texts in CAPTIONS for text in texts]
    keep = [index for index, text in enumerate(flat) if index == flat.index(text)]
    names, similarity = [flat[index] for index in keep], images @ texts[keep].T
    first = [names[index] for index in similarity.argmax(dim=1).tolist()]
    back = similarity.argmax(dim=0).tolist()
    to_text = sum(text in CAPTIONS[picture] for picture, text in enumerate(first)) / len(CAPTIONS)
    to_image = sum(name in CAPTIONS[picture] for name, picture in zip(names, back)) / len(names)
    return to_text, to_image, first + back


def test_retrieval(dual_encoder):
    (evaluation,) = evaluate(dual_encoder, retrieval_batches())
    *merged, merged_first = recall_at_1(dual_encoder)
    with pitome_disabled(dual_encoder):
        *dense, dense_first = recall_at_1(dual_encoder)
    names = ("image_to_text_recall@1", "text_to_image_recall@1")
    assert [evaluation.dense[name] for name in names] == pytest.approx(dense)
    assert [evaluation.merged[name] for name in names] == pytest.approx(merged)
    same = sum(first == second for first, second in zip(dense_first, merged_first)) / len(dense_first)
    assert evaluation.agreement["agreement"] == pytest.approx(same)
    # Six captions, four pictures: among five captions is a question, among five pictures is none.
    assert evaluation.metrics == [names[0], "image_to_text_recall@5", names[1]]
    assert evaluation.num_samples == 4 and evaluation.timing.rounds == 2
    # Each tower at its own length: 65 tokens of a picture, 8 of a text.
    summary = pitome_summary(dual_encoder, num_tokens=[65, 8])
    assert [encoder.tokens[0] for encoder in summary.encoders] == evaluation.num_tokens == [65, 8]
    assert evaluation.gflops_dense == pytest.approx(summary.gflops_dense)
    with pytest.raises(ValueError, match=r"num_tokens=\[65\]: expected .* a list of 2"):
        pitome_summary(dual_encoder, num_tokens=[65])


def test_settings_that_rewrite_other_encoders_are_counted_by_themselves(dual_encoder):
    vision, both = evaluate(dual_encoder, retrieval_batches(), ratios=[{"vision": 0.6}, {"vision": 0.6, "text": 0.8}])
    assert (vision.num_tokens, both.num_tokens) == ([65], [65, 8])
    assert both.gflops_dense > vision.gflops_dense


def texts(labels=None):
    """Texts of different lengths, padded, in two batches."""
    for start in (0, 4):
        ids = torch.arange(4 * 30).reshape(4, 30) % 40 + 7 + start
        mask = (torch.arange(30) < torch.tensor([[30], [24], [20], [17]])).long()
        yield {
            "input_ids": ids * mask,
            "attention_mask": mask,
            **({} if labels is None else {"labels": labels[start:]}),
        }


def test_embeddings_keep_neighbours():
    torch.manual_seed(0)
    model = BertModel(bert_config()).eval()
    (evaluation,) = evaluate(model, texts(), EmbeddingJudge(model, neighbours=3), ratios=0.6)

    @torch.no_grad()
    def embed():
        rows = [pooled(model(**batch), batch) for batch in texts()]
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)

    def nearest(queries, index):
        return (queries @ index.T).fill_diagonal_(-1).argsort(dim=1, descending=True)[:, :3].tolist()

    def overlap(first, second):
        return sum(len(set(one) & set(other)) / 3 for one, other in zip(first, second)) / 8

    dense = embed()
    apply_pitome(model, 0.6)
    merged = embed()
    kept = overlap(nearest(dense, dense), nearest(merged, merged))
    assert evaluation.agreement["agreement"] == pytest.approx(kept) and kept < 1
    found, right = nearest(merged, dense), nearest(dense, dense)
    first = sum(one[0] == other[0] for one, other in zip(found, right)) / 8
    assert evaluation.kept["dense_index_recall@1"] == pytest.approx(first)
    assert evaluation.kept["dense_index_recall@3"] == pytest.approx(overlap(found, right))
    cosines = [
        torch.nn.functional.cosine_similarity(one - dense.mean(0), other - dense.mean(0), dim=0).item()
        for one, other in zip(merged, dense)
    ]
    assert evaluation.kept["centred_cosine"] == pytest.approx(sum(cosines) / 8, abs=1e-6) and min(cosines) > 0
    shown = evaluate(model, texts(), EmbeddingJudge(model, neighbours=3), ratios=0.6).table()
    assert {"dense index recall@3, %", "centred cosine, %"} <= {*shown.columns}
    assert evaluation.metrics == [] and evaluation.agreement_title == "3 nearest kept"
    with pytest.raises(ValueError, match="A sample alone has no neighbours"):
        evaluate(model, [{name: values[:1] for name, values in next(texts()).items()}])


def test_neighbours_that_chance_alone_keeps_are_told(monkeypatch):
    said = []
    monkeypatch.setattr(judges.logger, "warning_once", said.append)
    judge = EmbeddingJudge(BertModel(bert_config()))
    judge.decide(list(torch.randn(101, 8)), [])
    assert said == []
    judge.decide(list(torch.randn(41, 8)), [])
    assert said == ["10 nearest kept: with 41 samples, 25 % are kept by chance alone. Evaluate 101 samples or more."]


def test_tokens_are_compared_where_there_are_some():
    torch.manual_seed(0)
    model = BertForTokenClassification(bert_config()).eval()
    labels = torch.randint(0, 3, (8, 30))
    labels[:, ::2] = -100
    (evaluation,) = evaluate(model, list(texts(labels)), ratios=0.6)

    @torch.no_grad()
    def classes():
        return torch.cat([model(**batch).logits.argmax(-1) for batch in texts()])

    mask = torch.cat([batch["attention_mask"] for batch in texts()]).bool()
    dense = classes()
    apply_pitome(model, 0.6)
    merged = classes()

    def share(equal, where):
        return ((equal & where).sum(1) / where.sum(1)).mean().item()

    assert evaluation.agreement["agreement"] == pytest.approx(share(merged == dense, mask)) and mask.sum() < 240
    assert (merged != dense)[mask].any()
    counted = labels != -100
    assert evaluation.merged["accuracy"] == pytest.approx(share((merged == labels) & mask, counted))


def test_the_judge_follows_from_the_batches(llava, dual_encoder):
    classifier, encoder = BertForTokenClassification(bert_config()), BertModel(bert_config())
    assert isinstance(find_judge(dual_encoder, {"captions": []}), RetrievalJudge)
    assert isinstance(find_judge(classifier, {"input_ids": 1}), ClassJudge)
    assert isinstance(find_judge(encoder, {"input_ids": 1, "labels": 1}), ClassJudge)
    assert isinstance(find_judge(encoder, {"input_ids": 1}), EmbeddingJudge)
    with pytest.raises(ValueError, match=r"pass judge=AnswerJudge\(model, processor\)"):
        find_judge(llava[0], {"answers": []})


def test_models_that_cannot(llava, dual_encoder):
    with pytest.raises(ValueError, match="A VisionTextDualEncoderModel does not generate"):
        AnswerJudge(dual_encoder, None)
    with pytest.raises(ValueError, match="has no image and text embeddings to compare. Accepted: CLIP"):
        RetrievalJudge(llava[0])
