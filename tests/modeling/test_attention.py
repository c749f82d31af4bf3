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

"""Attention implementations and attention masks."""

import pytest
import torch
from modeling.helpers import VISION, build, difference, images, run
from plain_flash import flash, use  # noqa: F401
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_disabled
from optimum_pitome.modeling import attention


IMPLEMENTATIONS = ("eager", "sdpa")
NUM_TOKENS = 65


def padding(batch_size=2, padded=9):
    """CLS and patches; the last ones of the second sample are padding. `(B, N)` bool."""
    mask = torch.ones(batch_size, NUM_TOKENS, dtype=torch.bool)
    mask[1, -padded:] = False
    return mask


def additive(mask, lowest):
    return torch.zeros(mask.shape).masked_fill(~mask, lowest)


@pytest.mark.parametrize("name", VISION)
def test_implementations_agree_and_can_be_switched(name):
    expected = run(apply_pitome(build(name, "sdpa"), 0.8))
    model = build(name, "eager")
    model.set_attn_implementation("sdpa")
    apply_pitome(model, 0.8)
    assert difference(run(model), expected) == 0.0
    model.set_attn_implementation("eager")
    assert "attentions.0" in run(model, output_attentions=True)  # it is eager now, and still merges
    assert 0 < difference(run(model), expected) < 1e-4
    model.set_attn_implementation("sdpa")
    assert difference(run(model), expected) == 0.0
    assert model.config._attn_implementation == "sdpa"


@pytest.fixture
def warnings(monkeypatch):
    """The messages that the attention module warns with, each once."""
    messages = []
    monkeypatch.setattr(
        attention.logger, "warning_once", lambda text: text in messages or messages.append(text), raising=False
    )
    return messages


def somebodys(module, query, key, value, attention_mask, **kwargs):
    """An attention function of which nothing is known."""
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_unknown_function_falls_back_to_sdpa_with_one_warning(when, warnings):
    AttentionInterface.register("somebodys", somebodys)
    expected = run(apply_pitome(build(), 0.8))
    model = build()
    if when == "before":
        model.set_attn_implementation("somebodys")
    apply_pitome(model, 0.8)
    model.set_attn_implementation("somebodys")
    assert difference(run(model), expected) == difference(run(model), expected) == 0.0
    assert len(warnings) == 1
    for part in ("ViTModel", "somebodys", "token sizes", "use 'sdpa'", "attn_implementation='sdpa'"):
        assert part in warnings[0]


def test_flash_attention_with_padding(flash):  # noqa: F811
    mask = padding()
    model = apply_pitome(build(), 0.8)
    expected = run(model, attention_mask=mask)
    output = run(use(model), attention_mask=mask)
    torch.testing.assert_close(
        output["last_hidden_state"][mask], expected["last_hidden_state"][mask], atol=1e-5, rtol=1e-5
    )
    assert flash.padded == len(model.layers)


def test_flash_attention_refuses_masks_of_pairs(flash):  # noqa: F811
    model = use(apply_pitome(build(), 0.8))
    mask = torch.ones(2, 1, NUM_TOKENS, NUM_TOKENS, dtype=torch.bool)
    with pytest.raises(ValueError, match="attention_mask has the shape.*ViTModel.*flash_attention_3.*'sdpa'"):
        run(model, attention_mask=mask)


@pytest.mark.parametrize("energy", ["nearest", "paper"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_mask_of_ones_is_no_mask(implementation, energy):
    model = apply_pitome(build("ViTModel", implementation), PiToMeConfig(0.8, energy=energy))
    expected = run(model)
    ones = torch.ones(2, NUM_TOKENS)
    full = torch.ones(2, 1, NUM_TOKENS, NUM_TOKENS, dtype=torch.bool)
    for mask in (ones, ones.bool(), ones.long(), full, torch.zeros(2, 1, NUM_TOKENS, NUM_TOKENS), full[:1]):
        copy = mask.clone()
        assert difference(run(model, attention_mask=mask), expected) < 1e-5
        assert torch.equal(mask, copy)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_form_of_a_padding_mask_means_the_same(implementation):
    model, mask = apply_pitome(build("ViTModel", implementation), 0.8), padding()
    expected = run(model, attention_mask=mask)["last_hidden_state"][mask]
    assert (expected - run(model)["last_hidden_state"][mask]).abs().max() > 1e-3
    row = mask[:, None, None, :]
    square = row.expand(-1, -1, NUM_TOKENS, -1)
    forms = [mask.long(), row, square, additive(square, float("-inf")), additive(row, -1e4)]
    forms += [additive(square, torch.finfo(torch.float32).min), square.expand(-1, 2, -1, -1)]
    for form in forms:
        copy = form.clone()
        output = run(model, attention_mask=form)["last_hidden_state"][mask]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(form, copy)


@pytest.mark.parametrize("energy", ["nearest", "paper", "elu", "gaussian"])
def test_what_is_padded_does_not_matter(energy):
    """Batch invariance: other pixels under the padding, and another sample beside it, change nothing."""
    model = apply_pitome(build(), PiToMeConfig(0.8, energy=energy))
    mask, batch = padding(3), images(3)
    expected = run(model, batch, attention_mask=mask)["last_hidden_state"]
    other = batch.clone()
    other[1, :, -4:, -4:] = 7.0  # the last patch
    output = run(model, other, attention_mask=mask)["last_hidden_state"]
    torch.testing.assert_close(output[mask], expected[mask], atol=1e-5, rtol=1e-5)
    alone = run(model, batch[1:2], attention_mask=mask[1:2])["last_hidden_state"]
    torch.testing.assert_close(alone[mask[1:2]], expected[1:2][mask[1:2]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_pattern_of_the_caller_shrinks_with_the_tokens(implementation):
    """No query may look across the middle of the sequence: the halves stay apart, whatever merges within them."""
    half = torch.arange(NUM_TOKENS) < 33
    pattern = (half[:, None] == half[None, :])[None, None]
    layers = PiToMeConfig(0.8, metric="hidden_states")
    model = apply_pitome(build("ViTModel", implementation), layers)
    seen = []
    for layer in model.layers:
        layer.attention.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    output = run(model, attention_mask=pattern.expand(2, -1, -1, -1))
    assert output["last_hidden_state"].isfinite().all()
    one_for_all = run(model, attention_mask=pattern)
    assert difference(one_for_all, output) < 1e-5
    if implementation == "eager":
        assert [weights.shape[-1] for weights in seen[:4]] == [65, 53, 43, 35]
        for weights in seen[:4]:
            # Each survivor looks at its own half only, and that adds up to 1.
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
            assert (weights == 0).any(dim=-1).all()


def test_soft_additive_masks_keep_their_values():
    """A bias on some keys is not padding: it goes on counting in the layers after a merge."""
    bias = torch.zeros(2, 1, 1, NUM_TOKENS)
    bias[..., 0] = -3.0  # CLS, which never merges
    square = bias.expand(-1, -1, NUM_TOKENS, -1)
    model = apply_pitome(build(), 0.8)
    assert difference(run(model, attention_mask=bias), run(model, attention_mask=square)) < 1e-5
    assert difference(run(model, attention_mask=bias), run(model)) > 1e-3


@pytest.mark.parametrize("name", VISION)
def test_no_configuration_shows_the_rewriting(name):
    model = build(name)
    before = {key: module.config for key, module in model.named_modules() if hasattr(module, "config")}
    apply_pitome(model, 0.8)
    for key, config in before.items():
        assert model.get_submodule(key).config is config and config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert all(
        module.config._attn_implementation == "eager" for module in model.modules() if hasattr(module, "config")
    )


def test_an_attention_function_of_somebody_runs_where_nothing_merges():
    """Flash attention is one, which honours the borders of packed sequences."""
    seen = []

    def attention(module, query, key, value, attention_mask, **kwargs):
        seen.append(kwargs.get("cu_seq_lens_q"))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("somebodys", attention)
    model, dense = apply_pitome(build(), 1.0), run(build())
    model.config._attn_implementation = "somebodys"
    borders = torch.tensor([0, 20, NUM_TOKENS])
    assert difference(run(model, cu_seq_lens_q=borders, cu_seq_lens_k=borders), dense) == 0.0
    assert len(seen) == len(model.layers) and all(found is borders for found in seen)


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seq_lens_k"])
def test_packed_sequences_are_refused_where_they_would_merge(name):
    model = apply_pitome(build(), 0.8)
    with pytest.raises(ValueError, match=f"{name} was passed to ViTModel, which merges tokens.*one sequence per row"):
        run(model, **{name: torch.tensor([0, 20, NUM_TOKENS])})
    with pitome_disabled(model):
        run(model, **{name: torch.tensor([0, 20, NUM_TOKENS])})
