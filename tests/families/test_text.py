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

"""What is special about text: padding, separators, decoders, heads on pooled or per-token vectors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.text import CASES, CLS, PAD, SEP, VOCAB_SIZE, pair_inputs, text_inputs

from optimum_pitome import apply_pitome
from optimum_pitome.families.text import special_tokens
from optimum_pitome.modeling.state import STATE_KEY


LOWEST = torch.finfo(torch.float32).min

#: A base model, a head that pools inside the encoder, heads that look at position 0, and one on every token.
MODELS = (
    "BertModel",
    "BertForSequenceClassification",
    "DistilBertForSequenceClassification",
    "RobertaForSequenceClassification",
    "RobertaPreLayerNormForTokenClassification",
    "ElectraForTokenClassification",
    "MPNetForSequenceClassification",
)


def case_of(name):
    return next(case for case in CASES if case.id == name)


@st.composite
def batches(draw):
    """Sentences as lists of ids, and how they are put into a batch."""
    word = st.integers(7, VOCAB_SIZE - 1)
    sentences = draw(st.lists(st.lists(word, min_size=1, max_size=18), min_size=1, max_size=4))
    extra, left = draw(st.integers(0, 9)), draw(st.booleans())
    form = draw(st.sampled_from(["2d", "4d bool", "4d additive"]))
    order = draw(st.permutations(range(len(sentences))))
    return [[CLS, *words, SEP] for words in sentences], extra, left, form, order


def put_together(sentences, extra, left, form):
    """Ids, mask and positions of a batch, wide enough to merge a pair: see `test_left_padding_of_short_text`."""
    width = max(max(map(len, sentences)) + extra, 6)
    ids = torch.full((len(sentences), width), PAD)
    mask, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        where = slice(width - len(sentence), width) if left else slice(0, len(sentence))
        ids[row, where], mask[row, where] = torch.tensor(sentence), 1
        positions[row, where] = torch.arange(len(sentence))
    if form != "2d":
        mask = mask.bool()[:, None, None, :].expand(-1, 1, width, -1)
    if form == "4d additive":
        mask = torch.zeros(mask.shape).masked_fill(~mask, LOWEST)
    return ids, mask, positions


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("name", "settings_"),
    [
        *((name, {}) for name in MODELS),
        ("BertModel", {"min_tokens": 9}),
        ("BertModel", {"weighted_by": "attention", "keep_norm": 0.5}),
        # Half of the words, whatever their share in a sentence.
        ("BertModel", {"protect_token_ids": [*range(7, 53)]}),
        ("MPNetForSequenceClassification", {"protect_token_ids": [*range(7, 53)]}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_a_sample_is_the_same_in_every_batch(name, settings_, attn_implementation):
    """Random batches: alone without a mask, or among others, in any order, padded left or right by any amount, with
    the mask in any form."""
    model = apply_pitome(case_of(name).build(attn_implementation), {"ratio": 0.7, **settings_})
    takes_positions = name.startswith(("Bert", "DistilBert", "Electra"))

    @settings(max_examples=200 if name == "BertForSequenceClassification" else 60)
    @given(batches())
    def check(batch):
        sentences, extra, left, form, order = batch
        if form == "4d bool" and attn_implementation == "eager" and "min_tokens" in settings_:
            # Where nothing merges the dense model's own attention runs, and transformers' eager one adds booleans.
            form = "4d additive"
        ids, mask, positions = put_together([sentences[i] for i in order], extra, left, form)
        before = mask.clone()
        with torch.no_grad():
            output = model(ids, attention_mask=mask, **({"position_ids": positions} if takes_positions else {}))[0]
            assert torch.equal(mask, before), "the caller's mask was modified"
            for row, i in enumerate(order):
                alone = model(torch.tensor([sentences[i]]))[0][0]
                found = output[row]
                if alone.dim() == 2:
                    found = found[-len(alone) :] if left else found[: len(alone)]
                torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)

    check()


def test_short_texts_stay_as_they_are():
    """With `min_tokens`, a text that is no longer is computed densely, in a batch with one that merges."""
    dense = case_of("BertModel").build()
    model = apply_pitome(case_of("BertModel").build(), {"ratio": 0.6, "min_tokens": 11})
    inputs = text_inputs(2)  # 24 and 13 tokens, two of them special
    with torch.no_grad():
        expected, (output, state) = dense(**inputs)[0], states_of(model, **inputs)
    torch.testing.assert_close(output[0][1, :13], expected[1, :13], atol=1e-5, rtol=0)
    assert (output[0][0] - expected[0]).abs().max() > 1e-3
    assert state.slots[-1].valid.sum(dim=1).tolist() == [13, 13]


def test_left_padding_of_short_text():
    """Too short to merge anything: then the dense model runs, and its pooler reads whatever is at position 0."""
    model, dense = apply_pitome(case_of("BertModel").build(), 0.7), case_of("BertModel").build()
    ids, mask, positions = torch.tensor([[PAD, CLS, SEP]]), torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]])
    with torch.no_grad():
        merged, expected = (m(ids, attention_mask=mask, position_ids=positions) for m in (model, dense))
    assert torch.equal(merged.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(merged.pooler_output, expected.pooler_output)


def test_without_a_mask_pads_are_tokens():
    """The dense model attends to them, too."""
    model = apply_pitome(case_of("BertModel").build(), 0.7)
    inputs = text_inputs(2)
    ones = torch.ones_like(inputs["attention_mask"])
    with torch.no_grad():
        without = model(inputs["input_ids"])[0]
        torch.testing.assert_close(without, model(inputs["input_ids"], attention_mask=ones)[0])
        assert (without - model(**inputs)[0])[1].abs().max() > 1e-3


@pytest.mark.parametrize("shared", [True, False], ids=["one row for all", "a row per sample"])
def test_an_attention_pattern_of_the_caller(shared):
    """A 4D mask that is more than padding (two texts packed into one sequence): no information crosses over."""
    model = apply_pitome(case_of("BertModel").build(), {"ratio": 0.7, "proportional_attention": True})
    ids = text_inputs(2, lengths=(20,), num_tokens=20)["input_ids"]
    part = torch.arange(20) < 9
    pattern = (part[:, None] == part[None, :])[None, None].expand(1 if shared else 2, 1, -1, -1)
    with torch.no_grad():
        first = model(ids, attention_mask=pattern)[0]
    assert first.shape == (2, 20, 32) and first.isfinite().all()


def test_specials_wherever_the_padding_is():
    ids = torch.tensor([[PAD, PAD, CLS, 9, 8, 7, SEP], [CLS, 9, SEP, 8, 7, SEP, PAD]])
    mask = (ids != PAD).long()
    special, most = special_tokens({"input_ids": ids, "attention_mask": mask})
    assert special.long().tolist() == [[0, 0, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 1, 0]]
    assert most == 4


def test_specials_of_a_pair_from_token_types():
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]])
    arguments = {"inputs_embeds": torch.zeros(2, 7, 4), "attention_mask": mask, "token_type_ids": types}
    expected = [[1, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0, 1]]
    assert special_tokens(arguments)[0].long().tolist() == expected
    del arguments["token_type_ids"]
    special, most = special_tokens(arguments)
    assert special.long().tolist() == [[1, 0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 1]] and most == 2


def test_no_sample_has_more_specials_than_promised():
    ids = torch.full((1, 12), SEP)
    special, most = special_tokens({"input_ids": ids, "attention_mask": None})
    assert special.sum() == most == 4


def states_of(model, **inputs):
    """The forward's state, as the last layer sees it."""
    found = []
    layer = model.encoder.layer[-1]
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: found.append(kwargs[STATE_KEY]), with_kwargs=True)
    with torch.no_grad():
        output = model(**inputs)
    hook.remove()
    return output, found[0]


def test_separators_keep_to_themselves():
    inputs = pair_inputs(3)
    _, state = states_of(apply_pitome(case_of("BertModel").build(), 0.6), **inputs)
    tokens = state.slots[-1]
    special, _ = special_tokens(inputs)
    groups = tokens.assignment
    for row in range(3):
        for position in special[row].nonzero().flatten():
            together = (groups[row] == groups[row, position]) & inputs["attention_mask"][row].bool()
            assert together.sum() == 1, "a special token merged"


def test_mean_pooling_is_the_size_weighted_mean():
    inputs = text_inputs(3)
    model = apply_pitome(case_of("BertModel").build(), {"ratio": 0.6, "unmerge": False})
    short, state = states_of(model, **inputs)
    tokens = state.slots[-1]
    assert short.last_hidden_state.shape[1] == tokens.sizes.shape[1] < 24
    sizes = (tokens.sizes * tokens.valid).unsqueeze(-1)
    weighted = (short.last_hidden_state * sizes).sum(1) / sizes.sum(1)
    full = apply_pitome(model, {"ratio": 0.6})
    with torch.no_grad():
        long = full(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    assert torch.equal(sizes.sum(1), mask.sum(1).float())
    torch.testing.assert_close((long * mask).sum(1) / mask.sum(1), weighted)


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "ElectraModel", "RobertaModel", "MPNetModel"])
def test_hidden_states_and_attentions(name):
    model = apply_pitome(case_of(name).build("eager"), 0.7)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**text_inputs(2), output_hidden_states=True, output_attentions=True)
        as_tuple = model(**text_inputs(2), return_dict=False)
    assert [state.shape[1] for state in output.hidden_states] == [24] * 5
    lengths = [attention.shape[-1] for attention in output.attentions]
    assert lengths[0] == 24 and lengths == sorted(lengths, reverse=True) and lengths[3] < lengths[0]
    for row, length in enumerate((24, 13)):
        torch.testing.assert_close(output.hidden_states[-1][row, :length], output[0][row, :length])
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], output[0])


def test_mpnet_bias_follows_the_tokens():
    """Distances are those of the original places: zeroing the bias changes merged outputs, and nothing else does."""
    model = case_of("MPNetModel").build()
    inputs = text_inputs(2)
    with torch.no_grad():
        apply_pitome(model, 0.7)
        biased = model(**inputs)[0]
        model.encoder.relative_attention_bias.weight.zero_()
        unbiased = model(**inputs)[0]
        bias = torch.zeros(32, 2)
        bias[:, 0] = 3.0  # one constant per head cancels in the softmax, so this must change nothing
        model.encoder.relative_attention_bias.weight.copy_(bias)
        constant = model(**inputs)[0]
    mask = inputs["attention_mask"].bool()
    assert (biased - unbiased)[mask].abs().max() > 1e-3
    torch.testing.assert_close(constant[mask], unbiased[mask], atol=1e-5, rtol=0)


def test_mpnet_bias_is_that_of_the_original_places_in_every_layer(monkeypatch):
    """Each pair of places has a bias of its own here, which tells who is left: members of the groups, in order."""
    model, inputs, seen = case_of("MPNetModel").build(), text_inputs(2), []
    pairs = torch.arange(24.0 * 24.0).view(1, 1, 24, 24).expand(1, 2, -1, -1)
    monkeypatch.setattr(model.encoder, "compute_position_bias", lambda *args, **kwargs: pairs / 1000)
    for layer in apply_pitome(model, {"ratio": 0.7, "layers": [0, 1, 2]}).encoder.layer:
        layer.attention.attn.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[2]), with_kwargs=True)
    _, state = states_of(model, **inputs)
    lengths = [bias.shape[-1] for bias in seen]
    assert lengths[0] == 24 and lengths[3] < lengths[2] < lengths[1] < 24
    for bias, tokens in zip(seen[1:], state.slots[1:]):
        places = ((bias * 1000).round().long() % 24)[:, :, :1]  # of the keys, by the first row
        rows = (bias * 1000).round().long() // 24
        for row in range(2):
            count = int(tokens.valid[row].sum())
            kept = places[row, 0, 0]
            assert (rows[row] == kept[:, None]).all()
            assert kept[:count].tolist() == sorted(set(kept[:count].tolist()))
            assert tokens.assignment[row, kept[:count]].tolist() == list(range(count))


def test_inputs_embeds():
    model = apply_pitome(case_of("BertModel").build(), 0.7)
    inputs = text_inputs(3)
    embeds = model.embeddings.word_embeddings(inputs["input_ids"])
    with torch.no_grad():
        by_ids = model(**inputs)[0]
        by_embeds = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])[0]
    torch.testing.assert_close(by_ids, by_embeds)
