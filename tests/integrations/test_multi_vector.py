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

"""Late interaction: what merged documents store, and what their queries find."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from zoo.text import CLS, PAD, SEP, SIZES, VOCAB_SIZE

from optimum_pitome import apply_pitome, pitome_disabled
from optimum_pitome.apply import layers_watched
from optimum_pitome.integrations.multi_vector import MergedTokenPooling


DOCUMENTS = [" ".join(f"w{7 + (3 * place + text) % 40}" for place in range(14 + 5 * text)) for text in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with a tokenizer."""
    root = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(root)
    words = {f"w{number}": number for number in range(7, VOCAB_SIZE)}
    made = Tokenizer(
        models.WordLevel({"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": 0, **words}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(root)
    return str(root)


def encoder(folder, *modules, **settings):
    made = MultiVectorEncoder(modules=[Transformer(folder), MultiVectorMask(), *modules], device="cpu")
    apply_pitome(made, {"ratio": 0.7, "layers": None, **settings})
    return made


def test_one_vector_is_stored_for_each_group(folder):
    model = encoder(folder)
    every = model.encode_document(DOCUMENTS, batch_size=2)
    stored = model.encode_document(DOCUMENTS, batch_size=2, token_pooling=MergedTokenPooling())
    for text, vectors, all_vectors in zip(DOCUMENTS, stored, every):
        records = []
        with layers_watched(model, records.append):
            model.encode_document(text)
        assert len(vectors) == records[-1].plan.valid.sum() < len(all_vectors)
    # The copies change no score, and none of the queries.
    with pitome_disabled(model):
        queries = model.encode_query(["w9 w12", "w30 w8 w21"], token_pooling=MergedTokenPooling())
        dense = model.encode_query(["w9 w12", "w30 w8 w21"])
    assert all(torch.equal(first, second) for first, second in zip(queries, dense))
    scores = model.similarity(queries, every)
    torch.testing.assert_close(model.similarity(queries, stored), scores, atol=1e-4, rtol=1e-5)


def test_a_dense_document_keeps_its_vectors(folder):
    model = encoder(folder)
    with pitome_disabled(model):
        every = model.encode_document(DOCUMENTS)
        stored = model.encode_document(DOCUMENTS, token_pooling=MergedTokenPooling())
    assert all(torch.equal(first, second) for first, second in zip(every, stored))


def test_it_is_saved_with_the_model(folder, tmp_path):
    model = encoder(folder, MergedTokenPooling(tolerance=1e-4, tasks=["query", "document"]))
    model.save_pretrained(str(tmp_path))
    again = MultiVectorEncoder(str(tmp_path), device="cpu", trust_remote_code=True)
    assert (again[2].tolerance, again[2].tasks) == (1e-4, ["query", "document"])
    expected, found = model.encode_document(DOCUMENTS), again.encode_document(DOCUMENTS)
    assert all(torch.equal(first, second) for first, second in zip(expected, found))
    assert len(found[0]) < len(encoder(folder).encode_document(DOCUMENTS[0]))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_first_of_equal_vectors_stays(which, dtype):
    """Whatever the order, and with the rounding of a projection."""
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    noise = 1e-6 * torch.randn(len(which), 16, generator=torch.Generator().manual_seed(1))
    given = (vectors[which].float() + noise).to(dtype)
    stored = MergedTokenPooling().pool_one(given)
    firsts = [index for index, value in enumerate(which) if value not in which[:index]]
    assert torch.equal(stored, given[firsts])


def test_a_tolerance_is_a_fraction():
    pooling = MergedTokenPooling(tolerance=0.1)
    assert len(pooling.pool_one(100 * torch.tensor([[1.0, 0.0], [1.0, 0.05], [1.0, 0.2]]))) == 2
    with pytest.raises(ValueError, match="tolerance=1.5: expected a number from 0 to below 1"):
        MergedTokenPooling(tolerance=1.5)


def test_the_page_on_late_interaction_runs(folder, tmp_path):
    encoder(folder).save_pretrained(str(tmp_path))
    page = (Path(__file__).parents[2] / "docs" / "late_interaction.md").read_text(encoding="utf-8")
    code, early = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "lightonai/LateOn" in code
    exec(code.replace("lightonai/LateOn", str(tmp_path)), found := {})
    assert found["model"].similarity(found["queries"], found["documents"]).shape == (1, 2)
    exec(early, found)
    assert found["model"].similarity(found["queries"], found["documents"]).shape == (1, 1)
