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

"""Text models: what is refused, what settings and summaries say, gradients, and where nothing can merge."""

from dataclasses import replace

import pytest
import torch
from families.test_text import MODELS, case_of
from transformers import (
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    RobertaForCausalLM,
)
from zoo import outputs_of
from zoo.text import bert_config, text_inputs

from optimum_pitome import PiToMeConfig, UnsupportedArchitectureError, apply_pitome, pitome_summary
from optimum_pitome.modeling import layer as layer_module
from optimum_pitome.modeling.rewrite import rewritten_encoders


@pytest.mark.parametrize("model_class", [BertLMHeadModel, RobertaForCausalLM])
def test_decoders_are_refused(model_class):
    config = model_class.config_class(**{**bert_config().to_dict(), "is_decoder": True, "model_type": "bert"})
    model = model_class(config)
    with pytest.raises(UnsupportedArchitectureError, match="configured as a decoder .is_decoder=True."):
        apply_pitome(model, 0.8)


def test_the_encoder_of_a_pair_merges_and_its_decoder_does_not():
    config = EncoderDecoderConfig.from_encoder_decoder_configs(bert_config(), bert_config())
    model = EncoderDecoderModel(config=config).eval()
    inputs = text_inputs(2)
    targets = {"decoder_input_ids": inputs["input_ids"][:, :6]}
    with torch.no_grad():
        dense = model(**inputs, **targets).logits
        apply_pitome(model, 0.6)
        merged = model(**inputs, **targets).logits
    assert hasattr(model.encoder, "pitome") and not hasattr(model.decoder.bert, "pitome")
    assert merged.shape == dense.shape and not torch.equal(merged, dense)


def test_chunks_of_the_feed_forward_need_not_divide_what_is_left():
    """In layers that merge, and in those after them."""
    outputs = []
    for size in (0, 8):
        config = bert_config()
        config.chunk_size_feed_forward = size
        torch.manual_seed(0)
        model = apply_pitome(BertModel(config).eval(), {"ratio": 0.7, "layers": [0, 1]})
        with torch.no_grad():
            outputs.append(model(**text_inputs(2, lengths=(16, 16), num_tokens=16)).last_hidden_state)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")  # since transformers 5.24: `cache`
def test_cached_keys_are_refused():
    from transformers import DynamicCache

    model = apply_pitome(case_of("BertModel").build(), 0.7)
    with pytest.raises(ValueError, match="prefix tuning"):
        model(**text_inputs(1), past_key_values=DynamicCache())


def test_official_settings():
    model = apply_pitome(case_of("BertForSequenceClassification").build(), PiToMeConfig.official(ratio=0.8))
    specs = model.bert.pitome.specs
    assert [spec.ratio.is_dense for spec in specs] == [False, False, False, True]
    first = specs[1]
    assert (first.algorithm, first.energy, first.metric) == ("pitome_halves", "gaussian", "keys")
    assert first.margin == pytest.approx(0.9 - 0.25 / 4)
    assert not first.proportional_attention and first.weighted_by == "nothing"
    with torch.no_grad():
        assert model(**text_inputs(2)).logits.isfinite().all()


@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel", "MPNetModel"])
def test_summary(name):
    model = apply_pitome(case_of(name).build(), 0.8)
    summary = pitome_summary(model, num_tokens=50)
    assert summary.tokens == [50, 41, 34, 28, 28]
    assert pitome_summary(model).tokens[0] in (66, 64)
    with pytest.raises(ValueError, match="67 tokens are too many: .* reads 6[46] at most"):
        pitome_summary(model, num_tokens=67)


def test_layers_can_be_chosen():
    model = apply_pitome(case_of("BertModel").build(), {"ratio": 0.8, "layers": [-1]})
    assert [spec.ratio.is_dense for spec in model.pitome.specs] == [True, True, True, False]


@pytest.mark.parametrize(
    "ratio, kept",
    [
        (0.8, [0.8, 0.8, 0.8, 1.0]),
        ([0.9, 0.8, 0.7], [0.9, 0.8, 0.7, 1.0]),
        ([1.0, 0.9, 0.8, 0.7], [1.0, 0.9, 0.8, 0.7]),
    ],
    ids=str,
)
def test_a_ratio_for_each_layer_is_for_all_of_them(ratio, kept):
    """Though by default the first three merge."""
    model = apply_pitome(case_of("BertModel").build(), {"ratio": ratio})
    assert [spec.ratio.kept for spec in model.pitome.specs] == kept


def test_gradients_reach_every_parameter():
    model = apply_pitome(case_of("BertForSequenceClassification").build(), 0.7).train()
    model(**text_inputs(3), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert isinstance(model, BertForSequenceClassification) and isinstance(model.bert, BertModel)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("settings", [{"ratio": 0.7, "min_tokens": 40}, {"ratio": 0.99}], ids=["floor", "ratio"])
@pytest.mark.parametrize("name", MODELS)
def test_the_dense_path_runs_where_no_sample_can_merge(name, settings, monkeypatch):
    """Neither special tokens are looked for, nor tokens compared: the static length says that nothing can merge."""
    case, inputs = case_of(name), text_inputs(3)
    dense, model = case.build(), apply_pitome(case.build(), settings)

    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(layer_module, "match_tokens", never)
    for encoder in rewritten_encoders(model):
        encoder.pitome.architecture = replace(encoder.pitome.architecture, special_tokens=never)
        for layer in encoder.pitome.architecture.find_layers(encoder):
            monkeypatch.setattr(type(layer), "attention_half", never)
    with torch.no_grad():
        outputs, expected = outputs_of(model(**inputs)), outputs_of(dense(**inputs))
    assert all(torch.equal(outputs[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "name, settings, method",
    [
        ("BertModel", {}, ("tome", 0.75, "attention")),
        ("BertForSequenceClassification", {"profile": "late"}, ("tome", 0.75, "attention")),
        ("BertModel", {"importance": 0.3}, ("tome", 0.3, "attention")),
        ("BertModel", {"weighted_by": "sizes"}, ("tome", 0.75, "sizes")),
        ("BertModel", {"algorithm": "tome", "importance": 0}, ("tome", 0.0, "sizes")),
        ("BertModel", {"algorithm": "pitome"}, ("pitome", 0.5, "sizes")),
        ("BertModel", {"algorithm": "dct"}, ("dct", 0.0, "sizes")),
        ("BertModel", {"energy": "paper"}, ("pitome", 0.0, "sizes")),
        ("BertModel", {"preset": "official"}, ("pitome_halves", 0.0, "nothing")),
        ("BertForTokenClassification", {}, ("pitome", 0.5, "sizes")),
    ],
)
def test_what_reads_attention_with_a_budget(name, settings, method):
    """Both the importance and the weights of means, where they were measured; a method by name is that method."""
    (encoder,) = rewritten_encoders(apply_pitome(case_of(name).build(), {"flops_ratio": 1.2, **settings}))
    spec = next(spec for spec in encoder.pitome.specs if not spec.ratio.is_dense)
    assert (spec.algorithm, spec.importance, spec.weighted_by) == method
