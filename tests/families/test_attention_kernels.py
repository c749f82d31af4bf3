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

"""Every family on flash kernels and FlexAttention: what it computes is what it computes with SDPA."""

import pytest
import torch
from plain_flash import flash, real_outputs, use  # noqa: F401
from torch.nn.attention import flex_attention
from zoo import one_per_encoder

from optimum_pitome import apply_pitome


#: Without padding, with it, with windows, with a mask that the model makes for its tower, and packed.
ON_FLEX = "ViTModel BertModel ModernBertModel Idefics2VisionTransformer Qwen3VLMoeVisionModel".split()


def supporting(attribute):
    """One case of each modeling file whose encoder runs on such kernels, as transformers says."""
    found = {}
    for case in one_per_encoder():
        if getattr(case.model_class, attribute, False) and not case.eager_only and not case.encoder_config:
            found.setdefault(case.model_class.__module__, case)
    return list(found.values())


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


def check_equal(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=tolerance, rtol=tolerance)


@each(supporting("_supports_flash_attn"))
def test_flash_attention_is_what_sdpa_computes(case, flash):  # noqa: F811
    model, inputs = case.build(), case.inputs(2)
    with_sdpa, dense = real_outputs(model, inputs), real_outputs(use(model), inputs)
    check_equal(real_outputs(apply_pitome(model, 1.0), inputs), dense, 0.0)
    # Some decoders of transformers leave the mask of what they attend to out.
    same = [name for name in dense if (dense[name] - with_sdpa[name]).abs().max() < 1e-4]
    if not same:
        pytest.skip("this transformers computes something else with flash attention")
    widths = set(flash.widths)
    del flash.widths[:], flash.lengths[:]
    found = real_outputs(apply_pitome(model, 0.8), inputs)
    assert len(set(flash.lengths)) > 1
    channels = set(flash.widths) - widths
    assert channels and all(width % 8 == 0 for width in channels)
    expected = real_outputs(use(model, "sdpa"), inputs)
    check_equal({name: found[name] for name in same}, {name: expected[name] for name in same})


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@each([case for case in one_per_encoder() if case.id in ON_FLEX])
def test_flex_attention_is_what_sdpa_computes(case, monkeypatch):
    # FlexAttention as it is defined: compiling it takes seconds for each length.
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    model, inputs = use(case.build(), "flex_attention"), case.inputs(2)
    with torch.compiler.set_stance("force_eager"):
        dense = real_outputs(model, inputs)
        check_equal(real_outputs(apply_pitome(model, 1.0), inputs), dense, 0.0)
        found = real_outputs(apply_pitome(model, 0.8), inputs)
    check_equal(found, real_outputs(use(model, "sdpa"), inputs))
