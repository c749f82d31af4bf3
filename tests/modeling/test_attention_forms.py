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

"""The forms in which log sizes reach an attention function, by themselves: what they compute, and which is chosen."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modeling.helpers import build, difference, run
from torch.nn.attention import flex_attention as flex
from torch.nn.functional import scaled_dot_product_attention

import optimum_pitome
from optimum_pitome import PiToMeConfig, apply_pitome, use_attention_form
from optimum_pitome.modeling import attention_forms
from optimum_pitome.modeling.attention_forms import add_channels, choose_form, is_plain, kind_of, score_function


@pytest.fixture
def channels():
    assert use_attention_form("channels") == "auto"
    yield
    use_attention_form("auto")


def attend(query, key, value, bias=None, scale=None):
    return scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)


def by_channels(query, key, value, log_sizes, real, scale):
    """What a flash kernel computes: samples one by one, without their padding."""
    query, key, value = add_channels(query, key, value, log_sizes, scale)
    assert query.shape[-1] == key.shape[-1] == value.shape[-1] and query.shape[-1] % 8 == 0
    outputs = torch.zeros_like(value)
    for sample, seen in enumerate(real):
        one = (tensor[sample : sample + 1, :, seen] for tensor in (query, key, value))
        outputs[sample, :, seen] = attend(*one, scale=scale)[0]
    return outputs


shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "heads": st.integers(1, 3),
        "tokens": st.integers(1, 20),
        "width": st.sampled_from([1, 5, 8, 14, 16, 40]),
        "scale": st.sampled_from([None, 1.0, 0.1]),
        "largest": st.sampled_from([1, 10, 1000]),
        "seed": st.integers(0, 1000),
    }
)


def tensors(batch, heads, tokens, width, scale, largest, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, heads, tokens, width
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    sizes = torch.randint(1, largest + 1, (batch, tokens), generator=generator).float()
    real = torch.arange(tokens) < torch.randint(1, tokens + 1, (batch, 1), generator=generator)
    return query, key, value, sizes.log(), real, width**-0.5 if scale is None else scale


@settings(max_examples=40)
@given(shapes, st.sampled_from([torch.float32, torch.float64]))
def test_channels_are_the_mask_form_forward_and_backward(shape, dtype):
    *inputs, log_sizes, real, scale = tensors(**shape)
    inputs, log_sizes = [tensor.to(dtype).requires_grad_() for tensor in inputs], log_sizes.to(dtype)
    bias = log_sizes.masked_fill(~real, torch.finfo(dtype).min)[:, None, None]
    expected = attend(*inputs, bias, scale)
    wanted = torch.randn_like(expected) * real[:, None, :, None]  # nobody reads padding
    found = by_channels(*inputs, log_sizes, real, scale)
    assert (found[..., inputs[2].shape[-1] :] == 0).all()
    found = found[..., : inputs[2].shape[-1]]
    seen = real[:, None, :, None].expand_as(expected)
    # Float32 rounds each form by as much: up to 1.05e-6 was seen, and more in sums over gradients.
    forward, backward = (2e-6, 1e-5) if dtype == torch.float32 else (1e-9, 1e-9)
    torch.testing.assert_close(found[seen], expected[seen], atol=forward, rtol=forward)
    gradients = torch.autograd.grad((expected * wanted).sum(), inputs)
    of_channels = torch.autograd.grad((found * wanted).sum(), inputs)
    torch.testing.assert_close(of_channels, gradients, atol=backward, rtol=backward)


@settings(max_examples=40)
@given(shapes, st.sampled_from([torch.bfloat16, torch.float16]))
def test_log_sizes_do_not_round_in_half_precision(shape, dtype):
    *inputs, log_sizes, real, scale = tensors(**shape, dtype=dtype)
    _, key, _ = add_channels(*inputs, log_sizes, scale)
    width = inputs[0].shape[-1]
    found = key[:, 0, :, width:].double().sum(dim=-1) * scale
    torch.testing.assert_close(found, log_sizes.double(), atol=2e-4, rtol=2e-5)
    assert torch.equal(key[..., :width], inputs[1])


@pytest.mark.parametrize("width", [64, 80])
def test_the_error_in_bfloat16_is_not_above_that_of_the_mask_form(width):
    errors = torch.zeros(2, dtype=torch.double)
    for seed in range(20):
        *inputs, log_sizes, real, scale = tensors(2, 4, 60, width, None, 300, seed, torch.bfloat16)
        exact = attend(*(tensor.double() for tensor in inputs), log_sizes.double()[:, None, None], scale)
        masked = attend(*inputs, log_sizes.bfloat16()[:, None, None], scale)
        found = attend(*add_channels(*inputs, log_sizes, scale), scale=scale)[..., :width]
        errors += torch.stack([(output.double() - exact).square().mean() for output in (found, masked)])
    assert errors[0] <= errors[1]


def test_float32_survives_a_cast():
    """transformers casts what adapters left in float32 before its flash kernels."""
    *inputs, log_sizes, _, scale = tensors(2, 1, 30, 64, None, 1000, 0)
    _, key, _ = add_channels(*inputs, log_sizes, scale)
    found = key[:, 0, :, 64:].bfloat16().double().sum(dim=-1) * scale
    torch.testing.assert_close(found, log_sizes.double(), atol=2e-4, rtol=2e-5)


@pytest.mark.parametrize("shape", itertools.product((1, 2), (1, 3), (1, 7)), ids=str)
def test_scores_take_a_bias_of_any_shape(shape, monkeypatch):
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    query, key, value = torch.randn(3, 2, 3, 7, 16)
    bias = torch.randn(*shape, 7)
    with torch.compiler.set_stance("force_eager"):
        found = flex.flex_attention(query, key, value, score_mod=score_function(bias))
    torch.testing.assert_close(found, attend(query, key, value, bias), atol=1e-6, rtol=1e-6)


def chosen(implementation, device="cuda", dtype=torch.bfloat16, tokens=600, width=64, **about):
    return choose_form(
        implementation, device, dtype, tokens, width, **{"padded": False, "pairwise": False, "plain": True, **about}
    )


def test_the_rule():
    assert [kind_of(name) for name in ("eager", "sdpa", "flex_attention")] == ["eager", "sdpa", "flex"]
    assert all(kind_of(f"flash_attention_{version}") == "flash" for version in (2, 3, 4))
    assert kind_of("of nobody") == "other"
    assert chosen("eager") == chosen("of nobody") == "mask"
    assert chosen("flex_attention") == chosen("flex_attention", padded=True, pairwise=True) == "score"
    assert chosen("flash_attention_2", "cpu", torch.float32, 4, padded=True) == "channels"
    assert chosen("sdpa") == chosen("sdpa", dtype=torch.float16) == "channels"
    assert chosen("sdpa", "cpu") == chosen("sdpa", dtype=torch.float32) == "mask"
    assert chosen("sdpa", tokens=511) == chosen("sdpa", padded=True) == "mask"
    for name in ("sdpa", "flash_attention_2"):
        assert chosen(name, pairwise=True) == chosen(name, plain=False) == chosen(name, width=256) == "mask"
        assert chosen(name, width=240) == "channels"
    assert chosen("flash_attention_4", width=120) == "channels" and chosen("flash_attention_4", width=128) == "mask"
    assert chosen("flex_attention", plain=False) == "mask"
    assert is_plain("flash", {"dropout": 0.1, "scaling": 1.0, "softcap": None})
    assert not is_plain("flash", {"softcap": 30.0}) and not is_plain("flex", {"dropout": 0.1})


def test_the_choice_of_the_user(channels):
    assert chosen("sdpa", "cpu", torch.float32, 4) == "channels" and chosen("sdpa", padded=True) == "mask"
    assert chosen("eager") == "mask" and chosen("flex_attention") == "score"
    assert use_attention_form("mask") == "channels"
    assert chosen("flash_attention_2") == chosen("flex_attention") == chosen("sdpa") == "mask"
    with pytest.raises(
        ValueError, match="form='flash' is no form of attention. Expected 'auto', 'mask' or 'channels'"
    ):
        use_attention_form("flash")
    with pytest.raises(ValueError, match="PITOME_ATTENTION='on' is no form"):
        attention_forms._checked("on", attention_forms.FORM_VARIABLE)
    assert optimum_pitome.use_attention_form is attention_forms.use_attention_form
    use_attention_form("channels")


@pytest.mark.parametrize("options", [{}, {"proportional_attention": False}, {"importance": 0.0}], ids=str)
def test_sdpa_with_channels_is_sdpa_with_masks(options, channels):
    model = apply_pitome(build("ViTModel"), PiToMeConfig(0.8, **options))
    found = run(model)
    use_attention_form("mask")
    assert difference(found, run(model)) < 1e-5
    use_attention_form("channels")


def test_gradients_with_channels(channels):
    model, gradients = apply_pitome(build("ViTModel"), 0.8), []
    pixels = torch.randn(2, 3, 32, 32)
    for form in ("channels", "mask"):
        use_attention_form(form)
        model.zero_grad()
        model(pixels).last_hidden_state.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    use_attention_form("channels")
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)
