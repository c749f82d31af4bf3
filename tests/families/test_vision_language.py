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

"""What is special about vision-language models: parts, pooling heads, cross-attention."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import Blip2VisionModel, BlipVisionModel, CLIPModel, CLIPVisionModel, SiglipModel, SiglipVisionModel
from zoo import outputs_of, vision_language

from optimum_pitome import PiToMeConfig, UnsupportedArchitectureError, apply_pitome, pitome_summary
from optimum_pitome.modeling.rewrite import rewritten_encoders


#: Vision tower, its published shape, GFLOPs of the paper at each ratio, tokens left at .9 with CLS.
RATIOS = (1.0, 0.975, 0.95, 0.925, 0.9)
PAPER = {
    "CLIP-L/14-336": (CLIPVisionModel, (1024, 24, 16, 4096, 336, 14), (190.6, 143.4, 110.5, 87.7, 71.4), 50),
    "BLIP-B/16-384": (BlipVisionModel, (768, 12, 12, 3072, 384, 16), (55.14, 47.73, 41.49, 36.28, 32.02), 167),
    "EVA-g/14-364": (Blip2VisionModel, (1408, 39, 16, 6144, 364, 14), (678.45, 434.7, 297.7, 218.6, 169.9), 17),
}


def build(model_class, **kwargs):
    case = next(case for case in vision_language.CASES if case.model_class is model_class)
    return case.build(**kwargs), case.inputs(2)


def test_only_the_vision_part_of_clip_merges():
    model, inputs = build(CLIPModel)
    with torch.no_grad():
        dense = model(**inputs)
        merged = apply_pitome(model, 0.8)(**inputs)
    assert [type(encoder) for encoder in rewritten_encoders(model)] == [CLIPVisionModel]
    assert torch.equal(merged.text_embeds, dense.text_embeds)
    assert not torch.allclose(merged.image_embeds, dense.image_embeds)


@pytest.mark.parametrize("model_class", [CLIPModel, SiglipModel])
def test_text_towers_are_refused_with_the_reason(model_class):
    model, _ = build(model_class)
    with pytest.raises(ValueError, match="The part 'text' of .* cannot merge: .* pools at the .*'vision'"):
        apply_pitome(model, {"vision": 0.9, "text": 0.9})
    assert rewritten_encoders(model) == [] and not hasattr(model.config, "pitome")
    with pytest.raises(UnsupportedArchitectureError, match="pools at the"):
        apply_pitome(model.text_model, 0.9)


def test_an_unknown_part_is_refused():
    model, _ = build(CLIPModel)
    with pytest.raises(
        ValueError, match="CLIPModel has no part 'image'. Parts of this model that can merge: 'vision'"
    ):
        apply_pitome(model, {"vision": 0.9, "image": 0.9})


def test_parts_round_trip_through_config_json(tmp_path):
    model, inputs = build(CLIPModel)
    apply_pitome(model, PiToMeConfig(metric="hidden_states", parts={"vision": {"ratio": 0.8, "layers": [0, 1]}}))
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["pitome"]
    assert written["parts"] == {"vision": {"ratio": 0.8, "layers": [0, 1]}}
    again = CLIPModel.from_pretrained(tmp_path).eval()
    assert again.config.pitome == model.config.pitome
    specs = rewritten_encoders(again)[0].pitome.specs
    assert [spec.ratio.is_dense for spec in specs] == [False, False, True, True]
    assert all(spec.metric == "hidden_states" for spec in specs)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).image_embeds, model(**inputs).image_embeds)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts={}"),
        ({"vision": 2.0}, r"parts\['vision'\]: ratio=2"),
        ({"vision": {"rato": 0.9}}, "did you mean 'ratio'"),
        ({"vision": {"parts": {"vision": 0.9}}}, "a part has no parts of its own"),
        ({"vision": False}, "leaves every part dense"),
    ],
)
def test_parts_are_validated(parts, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        PiToMeConfig(parts=parts)


@pytest.mark.parametrize("unmerge", [True, False])
def test_the_pooling_head_of_siglip_weighs_tokens_by_their_size(unmerge):
    model, inputs = build(SiglipVisionModel)
    apply_pitome(model, {"ratio": 0.8, "unmerge": unmerge})
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        short = apply_pitome(model, {"ratio": 0.8, "unmerge": False})(**inputs).last_hidden_state
        state = {}
        hook = model.encoder.layers[-1].register_forward_pre_hook(
            lambda module, args, kwargs: state.update(slots=kwargs["pitome_state"].slots), with_kwargs=True
        )
        model(**inputs)
    hook.remove()
    tokens = state["slots"][-1]
    num_kept = 64 - 12 - 10 - 8 - 6
    assert short.shape[1] == num_kept and output.last_hidden_state.shape[1] == (64 if unmerge else num_kept)
    assert [states.shape[1] for states in output.hidden_states][::4] == ([64, 64] if unmerge else [64, num_kept])
    # Attention pooling with log sizes as the bias, by hand.
    head = model.head
    with torch.no_grad():
        bias = tokens.sizes.log()[:, None, :].repeat_interleave(head.attention.num_heads, dim=0)
        pooled = head.attention(head.probe.repeat(2, 1, 1), short, short, attn_mask=bias)[0]
        pooled = (pooled + head.mlp(head.layernorm(pooled)))[:, 0]
    torch.testing.assert_close(output.pooler_output, pooled, atol=1e-5, rtol=1e-4)


BLIP = [
    "BlipVisionModel",
    "BlipForImageTextRetrieval",
    "BlipForQuestionAnswering",
    "BlipForConditionalGeneration",
]


@pytest.mark.parametrize("name", BLIP)
def test_attention_weights_of_blip(name):
    model, inputs = build(getattr(transformers, name))
    with torch.no_grad():
        dense = model(**inputs, output_attentions=True)
        apply_pitome(model, 1.0)
        rewritten = model(**inputs, output_attentions=True)
        for before, after in zip(dense.attentions, rewritten.attentions, strict=True):
            assert torch.equal(before, after)
        assert torch.equal(dense.last_hidden_state, rewritten.last_hidden_state)
        merged = apply_pitome(model, 0.8)(**inputs, output_attentions=True)
        torch.testing.assert_close(merged.last_hidden_state, model(**inputs).last_hidden_state, atol=1e-5, rtol=0)
    assert [weights.shape[-1] for weights in merged.attentions] == [65, 53, 43, 35]
    assert all(torch.allclose(weights.sum(-1), torch.ones(())) for weights in merged.attentions)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_table(name):
    model_class, shape, gflops, tokens_left = PAPER[name]
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "patch_size",
    )
    with torch.device("meta"):
        model = model_class._from_config(model_class.config_class(**dict(zip(names, shape))))
    for ratio, expected in zip(RATIOS, gflops):
        summary = pitome_summary(apply_pitome(model, PiToMeConfig.paper(ratio=ratio)), count="paper")
        assert summary.gflops_merged == pytest.approx(expected, rel=0.01)
    assert summary.gflops_dense == pytest.approx(gflops[0], rel=0.01) and summary.tokens[-1] == tokens_left


READERS = {
    "BlipForImageTextRetrieval": "text_encoder.encoder.layer.0.crossattention.self",
    "BlipForQuestionAnswering": "text_encoder.encoder.layer.0.crossattention.self",
    "BlipForConditionalGeneration": "text_decoder.bert.encoder.layer.0.crossattention.self",
    "Blip2ForConditionalGeneration": "qformer.encoder.layer.0.crossattention.attention",
    "Blip2ForImageTextRetrieval": "qformer.encoder.layer.0.crossattention.attention",
    "InstructBlipForConditionalGeneration": "qformer.encoder.layer.0.crossattention.attention",
}


def run_reading(model, inputs, name):
    """The outputs, and how many tokens of the image the first cross-attention saw."""
    seen = []
    hook = model.get_submodule(READERS[name]).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    with torch.no_grad():
        outputs = outputs_of(model(**inputs))
    hook.remove()
    return outputs, seen


def forget_mark(model):
    """Without the mark, text models read every original token."""
    rewrite = model.vision_model.pitome
    rewrite.architecture = replace(rewrite.architecture, marks_outputs=False)


@pytest.mark.parametrize("name", READERS)
def test_cross_attention_reads_merged_tokens_and_loses_nothing(name):
    model, inputs = build(getattr(transformers, name))
    apply_pitome(model, 0.8)
    short, seen = run_reading(model, inputs, name)
    assert set(seen) == {1 + 64 - 12 - 10 - 8 - 6}
    forget_mark(model)
    full, seen = run_reading(model, inputs, name)
    assert set(seen) == {65}
    for key in short:
        torch.testing.assert_close(short[key], full[key], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_cross_attention_without_unmerging(name):
    model, inputs = build(getattr(transformers, name))
    expected, _ = run_reading(apply_pitome(model, 0.8), inputs, name)
    outputs, seen = run_reading(apply_pitome(model, {"ratio": 0.8, "unmerge": False}), inputs, name)
    assert set(seen) == {29}
    for key, value in outputs.items():
        if value.shape == expected[key].shape:
            torch.testing.assert_close(value, expected[key], atol=2e-5, rtol=1e-4)
        else:
            assert (value.shape[1], expected[key].shape[1]) == (29, 65)
    # Without proportional attention, what is read is the short sequence and nothing else.
    unweighted = apply_pitome(model, {"ratio": 0.8, "unmerge": False, "proportional_attention": False})
    marked, _ = run_reading(unweighted, inputs, name)
    forget_mark(model)
    unmarked, seen = run_reading(unweighted, inputs, name)
    assert set(seen) == {29}
    for key in marked:
        torch.testing.assert_close(marked[key], unmarked[key], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["BlipForConditionalGeneration", "BlipForQuestionAnswering"])
def test_blip_generates_with_beams(name):
    model, inputs = build(getattr(transformers, name))
    inputs.pop("decoder_input_ids", None)
    settings = {"num_beams": 3, "max_new_tokens": 5}
    dense = model.generate(**inputs, **settings)
    assert torch.equal(apply_pitome(model, 1.0).generate(**inputs, **settings), dense)
    apply_pitome(model, 0.8)
    seen = []
    text_model = model.get_submodule(READERS[name])
    text_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"].shape[:2]), with_kwargs=True
    )
    merged = model.generate(**inputs, **settings)
    forget_mark(model)
    assert torch.equal(model.generate(**inputs, **settings), merged) and merged.shape[0] == 2
    copies = 3 if name == "BlipForConditionalGeneration" else 1
    assert set(seen) == {(2 * copies, 29), (2 * copies, 65)}


def test_both_parts_of_a_dual_encoder():
    model, inputs = build(transformers.VisionTextDualEncoderModel)

    def names():
        return sorted(type(encoder).__name__ for encoder in rewritten_encoders(model))

    apply_pitome(model, 0.8)
    assert names() == ["ViTModel"]
    apply_pitome(model, {"vision": 0.8, "text": {"ratio": 0.7, "layers": [0]}})
    assert names() == ["BertModel", "ViTModel"]
    with torch.no_grad():
        both = model(**inputs)
        apply_pitome(model, {"text": {"ratio": 0.7, "layers": [0]}})
        text = model(**inputs)
    assert names() == ["BertModel"]
    torch.testing.assert_close(both.text_embeds, text.text_embeds)
    assert not torch.allclose(both.image_embeds, text.image_embeds)


def test_a_decoder_is_no_part():
    model, inputs = build(transformers.VisionEncoderDecoderModel)
    apply_pitome(model, 0.8)
    assert [type(encoder).__name__ for encoder in rewritten_encoders(model)] == ["ViTModel"]
    with pytest.raises(ValueError, match="The part 'text' of VisionEncoderDecoderModel cannot merge"):
        apply_pitome(model, {"text": 0.9})
