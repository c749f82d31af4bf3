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

"""Tokens that never merge: mask tokens, found by the tokenizer beside the weights, and those that the user names."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertForPreTraining,
    PreTrainedTokenizerFast,
    pipeline,
)
from zoo.text import CASES, CLS, PAD, SEP, VOCAB_SIZE, pair_inputs, text_inputs
from zoo.vit import vit_config

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_summary
from optimum_pitome.modeling import mask_token
from optimum_pitome.modeling.rewrite import rewritten_encoders
from optimum_pitome.modeling.state import STATE_KEY


MASK = 2
FAMILIES = ("Bert", "DistilBert", "Roberta", "Electra", "MPNet")


def build(name):
    return next(case for case in CASES if case.id == name).build()


def masked_inputs(batch_size=3):
    """Sentences of 24, 13 and 19 tokens; in the second most words are masked, and some masks are neighbours."""
    inputs = text_inputs(batch_size)
    places = torch.zeros_like(inputs["input_ids"]).bool()
    places[0, [3, 4, 5, 15]], places[2, 1] = True, True
    places[1, 3:9] = True
    inputs["input_ids"][places] = MASK
    return inputs, places


def slots_of(model, **inputs):
    """What each layer of the encoder received, and what left the last."""
    (encoder,), states = rewritten_encoders(model), []
    layer = encoder.pitome.architecture.find_layers(encoder)[-1]
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: states.append(kwargs[STATE_KEY]), with_kwargs=True)
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return states[0].slots


@pytest.mark.parametrize("ratio", [0.8, 0.6])
@pytest.mark.parametrize("family", FAMILIES)
def test_protected_tokens_stay_alone_and_the_length_is_the_same(family, ratio):
    inputs, places = masked_inputs()
    model = apply_pitome(build(f"{family}Model"), ratio)
    unprotected = slots_of(model, **inputs)[-1]
    tokens = slots_of(apply_pitome(model, {"ratio": ratio, "protect_token_ids": [MASK]}), **inputs)[-1]
    assert tokens.sizes.shape == unprotected.sizes.shape and torch.equal(tokens.valid, unprotected.valid)
    real = inputs["attention_mask"].bool()
    merged_before = 0
    for row, place in places.nonzero().tolist():
        together = real[row] & (unprotected.assignment[row] == unprotected.assignment[row, place])
        merged_before += int(together.sum() > 1)
        # At 0.6 the second sentence would end with 3 of 11 tokens: fewer than its 6 masks.
        if row != 1 or ratio > 0.6:
            assert (real[row] & (tokens.assignment[row] == tokens.assignment[row, place])).sum() == 1
    assert merged_before > 3


def test_several_ids_and_tokens_that_only_look_alike():
    inputs, places = masked_inputs()
    inputs["input_ids"][0, 3] = 50
    tokens = slots_of(apply_pitome(build("BertModel"), {"ratio": 0.7, "protect_token_ids": [MASK, 50]}), **inputs)[-1]
    alone = [(tokens.assignment[0] == tokens.assignment[0, place]).sum() == 1 for place in range(24)]
    assert alone[3] and alone[4] and alone[5] and alone[15] and not all(alone)


def test_mpnet_finds_the_separator_of_a_pair():
    """As with BERT, the ids reach the encoder."""
    ids, mask = (pair_inputs(2)[name] for name in ("input_ids", "attention_mask"))
    model, bert = apply_pitome(build("MPNetModel"), 0.6), apply_pitome(build("BertModel"), 0.6)
    found = slots_of(model, input_ids=ids, attention_mask=mask)[1:]
    expected = slots_of(bert, input_ids=ids, attention_mask=mask)[1:]
    assert [slot.special.sum(dim=1).tolist() for slot in found] == [[3, 3]] * 4
    assert [slot.valid.shape for slot in found] == [slot.valid.shape for slot in expected]
    with torch.no_grad():
        output = model(ids, mask)[0]
        torch.testing.assert_close(model.forward(input_ids=ids, attention_mask=mask)[0], output)
        # Where there are no ids it merges all the same.
        embeds = model.embeddings.word_embeddings(ids)
        assert model(inputs_embeds=embeds, attention_mask=mask)[0].shape == output.shape


@pytest.mark.parametrize("name", ["BertForMaskedLM", "MPNetForMaskedLM"])
def test_one_graph(name):
    model = apply_pitome(build(name), {"ratio": 0.7, "protect_token_ids": [MASK, 50]})
    inputs, _ = masked_inputs()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=0)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def tokenizer():
    special = {"[UNK]": 0, "[PAD]": PAD, "[MASK]": MASK, "[CLS]": CLS, "[SEP]": SEP}
    words = {f"w{number}": number for number in range(7, VOCAB_SIZE)}
    made = Tokenizer(models.WordLevel({**special, **words}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=60, **names)


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(mask_token.logger, "warning_once", found.append)
    return found


def saved(tmp_path, name, tokenizer=None):
    build(name).save_pretrained(tmp_path / name)
    if tokenizer is not None:
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_found_by_the_tokenizer_beside_the_weights(family, tokenizer, tmp_path, warnings):
    path = saved(tmp_path, f"{family}ForMaskedLM", tokenizer)
    model = AutoModelForMaskedLM.from_pretrained(path, pitome={"ratio": 0.8, "protect_token_ids": [50]})
    (encoder,) = rewritten_encoders(model)
    assert encoder.pitome.protect_token_ids == (MASK, 50) and not warnings
    # In the configuration, too: the next folder has no tokenizer.
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "again")
    assert rewritten_encoders(again)[0].pitome.protect_token_ids == (MASK, 50) and not warnings
    # A model in hand that came from the folder.
    dense = AutoModelForMaskedLM.from_pretrained(path)
    assert apply_pitome(dense, 0.8).config.pitome["protect_token_ids"] == [MASK]


def test_the_pipeline_needs_nothing_more(tokenizer, tmp_path):
    path = saved(tmp_path, "BertForMaskedLM", tokenizer)
    pipe = pipeline("fill-mask", model=str(path), model_kwargs={"pitome": 0.6})
    assert pipe.model.bert.pitome.protect_token_ids == (MASK,)
    text = "w40 w41 [MASK] w43 w44 w45 w46 w47 w48 w49"
    assert pipe(text, top_k=1)[0]["token"] == pipe([text, "w7 [MASK]"], batch_size=2, top_k=1)[0][0]["token"]


def test_a_configuration_that_names_the_mask_token(warnings):
    model = build("BertForMaskedLM")
    model.config.mask_token_id = MASK
    assert apply_pitome(model, 0.8).bert.pitome.protect_token_ids == (MASK,) and not warnings


def test_without_a_tokenizer_nothing_is_guessed(tmp_path, warnings):
    """From a folder with a config.json only, `AutoTokenizer` makes a tokenizer of five tokens."""
    path = saved(tmp_path, "BertForMaskedLM")
    model = AutoModelForMaskedLM.from_pretrained(path, pitome=0.8)
    assert model.bert.pitome.protect_token_ids == () and "protect_token_ids" not in model.config.pitome
    assert len(warnings) == 1 and "protect_token_ids=[tokenizer.mask_token_id]" in warnings[0]
    (path / "tokenizer_config.json").write_text("{")
    AutoModelForMaskedLM.from_pretrained(path, pitome=0.8)
    apply_pitome(build("BertForMaskedLM"), {"ratio": 0.8, "protect_token_ids": [MASK]})
    assert len(warnings) == 2


def test_who_sees_no_masks_is_not_asked_for_a_tokenizer(tokenizer, tmp_path, warnings):
    path = saved(tmp_path, "ElectraForPreTraining", tokenizer)
    model = AutoModelForPreTraining.from_pretrained(path, pitome=0.8)
    assert model.electra.pitome.protect_token_ids == ()
    path = saved(tmp_path, "BertForSequenceClassification", tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(path, pitome=0.8)
    assert model.bert.pitome.protect_token_ids == () and not warnings
    # This head predicts them.
    path = saved(tmp_path, "BertForPreTraining", tokenizer)
    model = BertForPreTraining.from_pretrained(path, pitome=0.8)
    assert model.bert.pitome.protect_token_ids == (MASK,)


def test_who_reads_no_ids_refuses():
    vit = AutoModelForImageClassification.from_config(vit_config())
    with pytest.raises(ValueError, match=r"protect_token_ids=\[2\]: ViTModel .* reads no token ids.*Leave the field"):
        apply_pitome(vit, {"ratio": 0.8, "protect_token_ids": [2]})
    with pytest.raises(ValueError, match="reads no token ids"):
        apply_pitome(vit, {"parts": {"vision": {"ratio": 0.8, "protect_token_ids": [2]}}})
    with pytest.raises(ValueError, match="has 99 tokens, so 99 is out of range .accepted: 0 to 98"):
        apply_pitome(build("BertModel"), {"ratio": 0.8, "protect_token_ids": [99]})


def test_the_field_goes_to_the_part_that_reads_text():
    config = PiToMeConfig(ratio=0.8, protect_token_ids=[4], parts={"vision": 0.9, "text": 0.8})
    assert config.for_part("text").protect_token_ids == [4]
    own = PiToMeConfig(parts={"text": {"ratio": 0.8, "protect_token_ids": [5]}}, protect_token_ids=[4])
    assert own.for_part("text").protect_token_ids == [5]
    assert PiToMeConfig(**config.to_pitome_dict()) == config
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel
    from zoo.text import bert_config

    both = VisionTextDualEncoderConfig.from_vision_text_configs(vit_config(), bert_config())
    encoders = rewritten_encoders(apply_pitome(VisionTextDualEncoderModel(both), config))
    assert [encoder.pitome.protect_token_ids for encoder in encoders] == [(), (4,)]
    with pytest.raises(ValueError, match="the part 'vision'.*reads no token ids"):
        apply_pitome(VisionTextDualEncoderModel(both), {"ratio": 0.8, "protect_token_ids": [4]})


def test_it_is_saved_and_read_again(tmp_path):
    PiToMeConfig(ratio=0.8, protect_token_ids=[MASK, 7]).save_pretrained(tmp_path)
    assert PiToMeConfig.from_pretrained(tmp_path).protect_token_ids == [MASK, 7]


def test_the_summary_says_so():
    model = apply_pitome(build("BertModel"), {"ratio": 0.8, "protect_token_ids": [MASK, 7]})
    summary = pitome_summary(model, 50)
    (encoder,) = summary.encoders
    assert encoder.num_special == 4 and encoder.settings["protect_token_ids"] == [MASK, 7]
    assert "special tokens, which never merge: up to 4 in a sample" in str(summary)
    assert f"protected token ids: [2, 7]; up to {encoder.max_protected} such tokens of a sample" in str(summary)
    # As many as that stay alone, and not one more.
    ids = torch.randint(8, VOCAB_SIZE, (1, 50))
    ids[0, 0], ids[0, 10], ids[0, 20], ids[0, -1] = CLS, SEP, SEP, SEP
    ids[0, 21 : 21 + encoder.max_protected] = MASK
    assert (slots_of(model, input_ids=ids)[-1].sizes[0][slots_of(model, input_ids=ids)[-1].protected[0]] == 1).all()
    ids[0, 1] = MASK
    assert (slots_of(model, input_ids=ids)[-1].sizes[0][slots_of(model, input_ids=ids)[-1].protected[0]] > 1).any()
