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

"""Readers of merged tokens: the mask they get, and how the marks on hidden states travel."""

import pytest
import torch
from torch import nn
from transformers import BlipForQuestionAnswering, ViTConfig, ViTModel

from optimum_pitome import apply_pitome, register_reader, remove_pitome
from optimum_pitome.merging import KeepRatio, MergeSpec, match_tokens
from optimum_pitome.modeling import hosts
from optimum_pitome.modeling.cross_attention import pass_mask_on, read_merged_tokens
from optimum_pitome.modeling.marks import carry_mark, mark_tokens, take_samples
from optimum_pitome.modeling.tokens import Tokens


BATCH_SIZE, NUM_TOKENS, DIM = 4, 20, 8


def marked(unmerge=True, proportional=True):
    """What leaves the tower, marked; and its tokens."""
    hidden_states, spec = torch.randn(BATCH_SIZE, NUM_TOKENS, DIM), MergeSpec(KeepRatio.from_float(0.6))
    tokens = Tokens(num_prefix_tokens=1)
    for _ in range(2):
        plan = match_tokens(hidden_states, spec, tokens.masks())
        hidden_states, tokens = plan.merge(hidden_states, tokens.sizes), tokens.merged(plan)
    output = tokens.unmerge(hidden_states) if unmerge else hidden_states.clone()
    mark_tokens(output, tokens, unmerge, proportional)
    return output, tokens


def read(hidden_states, mask=None, dtype=torch.float32):
    """What a reader gets: hidden states and mask."""
    reader = nn.Linear(1, 1, dtype=dtype)
    kwargs = {"encoder_hidden_states": hidden_states, "encoder_attention_mask": mask, "labels": 3}
    changed = read_merged_tokens(reader, (5,), kwargs)
    if changed is None:
        return None
    (five,), changed = changed
    assert five == 5 and changed["labels"] == 3
    assert kwargs["encoder_hidden_states"] is hidden_states and kwargs["encoder_attention_mask"] is mask
    return changed["encoder_hidden_states"], changed["encoder_attention_mask"]


def attend(query, hidden_states, bias):
    """One head of cross-attention, keys and values the hidden states; `bias` `(B, n)`."""
    scores = query @ hidden_states.transpose(1, 2) + bias.unsqueeze(1)
    return scores.softmax(-1) @ hidden_states


@pytest.mark.parametrize("hidden", [(), (0, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("unmerge", [True, False])
def test_reading_merged_tokens_is_reading_all_of_them(unmerge, proportional, hidden):
    """Cross-attention over the short sequence and over the original tokens, some groups of which are masked."""
    hidden_states, tokens = marked(unmerge, proportional)
    num_left = tokens.sizes.shape[1]
    groups = torch.ones(BATCH_SIZE, num_left, dtype=torch.long)
    groups[1, list(hidden)] = 0
    mask = groups.gather(1, tokens.assignment)
    assert not unmerge or hidden_states.shape[1] == NUM_TOKENS
    short, bias = read(hidden_states, None if not hidden else mask if unmerge else groups)
    assert short.shape == (BATCH_SIZE, num_left, DIM) and bias.shape == (BATCH_SIZE, 1, 1, num_left)
    assert bias.isfinite().all()
    query = torch.randn(BATCH_SIZE, 3, DIM)
    # Without proportional attention, each group is one token, whatever its size.
    weights = torch.ones_like(mask).float() if proportional else 1 / tokens.sizes.gather(1, tokens.assignment)
    expected = attend(query, tokens.unmerge(short), (weights * mask).log())
    torch.testing.assert_close(attend(query, short, bias[:, 0, 0]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_bias_has_the_dtype_of_the_reader_and_stays_finite(dtype):
    hidden_states, tokens = marked()
    mask = torch.ones(BATCH_SIZE, NUM_TOKENS).masked_fill(tokens.assignment == 2, 0)
    _, bias = read(hidden_states, mask, dtype)
    expected = tokens.sizes.log().to(dtype)
    expected[:, 2] = torch.finfo(dtype).min
    assert bias.dtype == dtype and torch.equal(bias[:, 0, 0], expected)


def test_the_mask_follows_the_hidden_states_to_their_device():
    hidden_states, tokens = marked()
    output = hidden_states.to("meta")
    mark_tokens(output, tokens.to(torch.device("meta")), True, True)
    short, bias = read(output, torch.ones(BATCH_SIZE, NUM_TOKENS))
    assert short.is_meta and bias.is_meta and short.shape[1] == bias.shape[-1] == tokens.sizes.shape[1]


def test_what_is_not_marked_is_read_as_it_is():
    assert read(torch.randn(2, 5, DIM)) is None and read(None) is None
    hidden_states = torch.randn(2, 5, DIM)
    assert read(take_samples(hidden_states, slice(1))) is None
    copy = hidden_states.repeat_interleave(2, dim=0)
    carry_mark(hidden_states, copy, 2)
    assert read(copy) is None


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([2, 0, 2]), torch.tensor([False, True, True, False])], ids=str
)
@pytest.mark.parametrize("unmerge", [True, False])
@pytest.mark.parametrize("proportional", [True, False])
def test_samples_taken_are_read_like_the_whole(proportional, unmerge, index):
    hidden_states, _ = marked(unmerge, proportional)
    taken = take_samples(hidden_states, index)
    assert torch.equal(taken, hidden_states[index])
    for found, whole in zip(read(taken), read(hidden_states), strict=True):
        assert torch.equal(found, whole[index])


@pytest.mark.parametrize("unmerge", [True, False])
@pytest.mark.parametrize("proportional", [True, False])
def test_repeated_samples_are_read_like_the_whole(proportional, unmerge):
    hidden_states, _ = marked(unmerge, proportional)
    copy = hidden_states.repeat_interleave(3, dim=0)
    carry_mark(hidden_states, copy, 3)
    for found, whole in zip(read(copy), read(hidden_states), strict=True):
        assert torch.equal(found, whole.repeat_interleave(3, dim=0))
    carry_mark(hidden_states, hidden_states, 3)  # no copy: whoever has one beam reads the original
    assert torch.equal(read(hidden_states)[1], read(copy)[1][::3])


def test_the_mask_reaches_modules_that_look_for_it_elsewhere():
    kwargs = {"encoder_hidden_states": torch.ones(1), "attention_mask": torch.zeros(1), "other": 1}
    args, changed = pass_mask_on(None, (2,), kwargs)
    assert args == (2,) and changed == {**kwargs, "encoder_attention_mask": kwargs["attention_mask"]}
    assert pass_mask_on(None, (2,), {"attention_mask": torch.zeros(1)}) is None
    assert pass_mask_on(None, (2,), {"attention_mask": torch.zeros(1), "encoder_hidden_states": None}) is None


# --- Readers of models from elsewhere -------------------------------------------------------------------------------


class Reader(nn.Module):
    """Attends to an image with one head; notes what it read."""

    def __init__(self):
        super().__init__()
        self.query, self.seen = nn.Linear(16, 16), []

    def forward(self, hidden_states, encoder_hidden_states=None, encoder_attention_mask=None):
        bias = torch.zeros(1) if encoder_attention_mask is None else encoder_attention_mask[:, 0, 0]
        self.seen.append((encoder_hidden_states.shape[1], bias))
        return attend(self.query(hidden_states), encoder_hidden_states, bias)


class Unmasked(Reader):
    def forward(self, hidden_states, encoder_hidden_states=None):
        return super().forward(hidden_states, encoder_hidden_states)


class PicturesAndText(nn.Module):
    def __init__(self, reader_class=Reader):
        super().__init__()
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        config = ViTConfig(**sizes, image_size=16, patch_size=4)
        self.eyes, self.reader = ViTModel(config, add_pooling_layer=False), reader_class()

    def forward(self, pixel_values, text):
        return self.reader(text, encoder_hidden_states=self.eyes(pixel_values).last_hidden_state)


@pytest.fixture
def no_hosts(monkeypatch):
    monkeypatch.setattr(hosts, "_HOSTS", {})


def test_a_reader_from_outside(no_hosts):
    torch.manual_seed(0)
    model, pixels, text = PicturesAndText().eval(), torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16)
    with torch.no_grad():
        apply_pitome(model, 0.7)
        whole = model(pixels, text)
        register_reader(PicturesAndText, "reader", encoder="eyes")
        dense = apply_pitome(model, 1.0)(pixels, text)
        short = apply_pitome(model, 0.7)(pixels, text)
        removed = remove_pitome(model)(pixels, text)
    (first, _), (second, _), (third, bias), (last, _) = model.reader.seen
    assert (first, second, last) == (17, 17, 17) and third == bias.shape[1] == 10
    torch.testing.assert_close(bias.exp().sum(dim=1), torch.full((2,), 17.0))
    torch.testing.assert_close(short, whole)
    assert torch.equal(dense, removed) and not model.reader._forward_pre_hooks


def test_what_is_registered_again(no_hosts):
    register_reader(PicturesAndText, "reader", encoder="eyes")
    with pytest.raises(ValueError, match="PicturesAndText is already registered. Pass exist_ok=True to replace"):
        register_reader(PicturesAndText, "reader", encoder="eyes")
    register_reader(PicturesAndText, "reader.query", encoder="eyes", exist_ok=True)
    with pytest.raises(ValueError, match="reader='reader.query': Linear.forward takes no encoder_hidden_states"):
        apply_pitome(PicturesAndText(), 0.7)


def test_what_is_built_in_stays():
    with pytest.raises(ValueError, match="BlipForQuestionAnswering is already registered. It is built in"):
        register_reader(BlipForQuestionAnswering, "text_encoder", exist_ok=True)
    with pytest.raises(ValueError, match="register_reader\\('PicturesAndText', ...\\): expected the class of a model"):
        register_reader("PicturesAndText", "reader")


@pytest.mark.parametrize(
    "reader_class, settings, message",
    [
        (
            Reader,
            {"encoder": "ears"},
            "encoder='ears' was not found in PicturesAndText, .* Correct encoder= in regi",
        ),
        (Reader, {"reader": "writer"}, "reader='writer' was not found in PicturesAndText, which has .*eyes"),
        (Unmasked, {}, "reader='reader': Unmasked.forward takes no encoder_attention_mask, so it cannot read merged"),
        (Reader, {"drops_mask": "cross"}, "drops_mask='cross': no sub-module of Reader has a name with this end"),
        (Unmasked, {"weighs_at": "cross"}, "weighs_at='cross': no sub-module of Unmasked has a name with this end"),
    ],
    ids=["encoder", "reader", "no mask", "drops_mask", "weighs_at"],
)
def test_models_that_are_not_as_registered(no_hosts, reader_class, settings, message):
    """They are refused when they are rewritten, and stay dense."""
    settings = {"reader": "reader", "encoder": "eyes", **settings}
    register_reader(PicturesAndText, settings.pop("reader"), **settings)
    model = PicturesAndText(reader_class)
    with pytest.raises(ValueError, match=message):
        apply_pitome(model, 0.7)
    assert getattr(model.eyes, "pitome", None) is None and not model.reader._forward_pre_hooks
