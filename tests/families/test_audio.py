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

"""Sound: Whisper's decoder on merged frames, layers that are dropped out in training, pipelines."""

import numpy as np
import pytest
import torch
from modeling.helpers import CASES, build, difference
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, pipeline
from transformers.models.whisper.modeling_whisper import WhisperDecoder
from zoo import outputs_of

from optimum_pitome import PiToMeConfig, apply_pitome, pitome_summary, remove_pitome


def run(model, inputs, **kwargs):
    with torch.no_grad():
        return outputs_of(model(**inputs, **kwargs))


def whisper(name="WhisperForConditionalGeneration", attn_implementation="sdpa", **settings):
    case = CASES[name]
    return apply_pitome(build(name, attn_implementation), PiToMeConfig(0.8, **settings)), case.inputs(2)


def frames_read(model):
    """How many frames each cross-attention makes keys of: a list that grows."""
    seen = []
    decoder = next(module for module in model.modules() if isinstance(module, WhisperDecoder))
    for layer in decoder.layers:
        layer.encoder_attn.k_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    return seen


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("proportional_attention", [True, False])
def test_whispers_decoder_reads_the_merged_frames(attn_implementation, proportional_attention):
    model, inputs = whisper("WhisperModel", attn_implementation, proportional_attention=proportional_attention)
    seen = frames_read(model)
    found = run(model, inputs)
    assert seen == [16, 16]  # 30, 24, 20 frames, then these
    if proportional_attention:
        # Without the mark, all frames are read: each group as often as it has members.
        states = found["encoder_last_hidden_state"].clone()
        whole = run(model, {"encoder_outputs": (states,), "decoder_input_ids": inputs["decoder_input_ids"]})
        assert seen[2:] == [30, 30]
        torch.testing.assert_close(found["last_hidden_state"], whole["last_hidden_state"], atol=1e-5, rtol=1e-4)


def test_weights_that_are_asked_for_are_those_of_all_frames():
    model, inputs = whisper("WhisperModel", "eager")
    plain = run(model, inputs)
    output = run(model, inputs, output_attentions=True)
    assert output["cross_attentions.0"].shape[-1] == 30
    assert difference({name: output[name] for name in plain}, plain) < 1e-5


def test_the_short_sequence_needs_no_mark_of_its_members():
    model, inputs = whisper("WhisperModel")
    expected = run(model, inputs)
    apply_pitome(model, PiToMeConfig(0.8, unmerge=False))
    found = run(model, inputs)
    assert found["encoder_last_hidden_state"].shape[1] == 16
    torch.testing.assert_close(found["last_hidden_state"], expected["last_hidden_state"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"output_attentions": True}], ids=str)
def test_whisper_generates(settings):
    """Step by step, with a cache, what the model says without one."""
    model, inputs = whisper()
    seen = frames_read(model)
    arguments = {"input_features": inputs["input_features"], "max_new_tokens": 5, "do_sample": False, **settings}
    with torch.no_grad():
        found = model.generate(**arguments)
    # Copies for a beam search carry no mark, and whoever looks at weights sees all frames.
    assert set(seen) == ({30} if settings else {16})
    remove_pitome(model)
    attention = [layer.encoder_attn for layer in model.model.decoder.layers]
    assert not any(module._forward_pre_hooks for module in (model.model.decoder, *attention))
    dense = model.generate(**arguments)
    assert found.shape == dense.shape
    if not settings:
        apply_pitome(model, 0.8)
        ids = torch.cat([torch.full((2, 1), model.config.decoder_start_token_id), found], dim=1)
        ids = found if found[0, 0] == model.config.decoder_start_token_id else ids
        logits = run(model, {"input_features": inputs["input_features"], "decoder_input_ids": ids})["logits"]
        start = ids.shape[1] - 5
        assert torch.equal(logits[:, start - 1 : -1].argmax(-1), ids[:, start:])


@pytest.mark.skipif("HubertModel" not in CASES, reason="this transformers passes HuBERT's layers no keyword arguments")
@pytest.mark.parametrize("name", ["Wav2Vec2ForSequenceClassification", "HubertModel"])
def test_layers_may_be_dropped_out(name):
    case = CASES[name]
    model = case.build()
    model.config.layerdrop = 0.5
    apply_pitome(model, 0.8).train()
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        outputs = outputs_of(model(**case.inputs(2)))
        assert all(value.isfinite().all() for value in outputs.values())
        seen.add(round(sum(value.sum().item() for value in outputs.values()), 3))
        sum(value.square().mean() for value in outputs.values()).backward()
    assert len(seen) > 1
    states = model(**case.inputs(2), output_hidden_states=True).hidden_states
    assert len({value.shape for value in states}) == 1


def sound(length=4000):
    return np.sin(np.linspace(0, 900, length)).astype(np.float32)


@pytest.mark.parametrize("name", ["ASTForAudioClassification", "Wav2Vec2ForSequenceClassification"])
def test_pipelines(name):
    if name not in CASES:
        pytest.skip("this transformers is too old for it")
    model = apply_pitome(build(name), 0.8)
    if name.startswith("AST"):
        extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=24)
    else:
        extractor = Wav2Vec2FeatureExtractor()
    found = pipeline("audio-classification", model=model, feature_extractor=extractor)(sound())
    assert len(found) == 3 and sum(item["score"] for item in found) == pytest.approx(1, abs=1e-4)


def test_a_number_of_frames_is_left_where_sounds_have_one_length():
    assert pitome_summary(apply_pitome(build("WhisperModel"), {"num_tokens": 15})).tokens[-1] == 15
    for name in {"Wav2Vec2Model", "HubertModel"} & CASES.keys():  # since a later transformers than the oldest
        with pytest.raises(ValueError, match="num_tokens=15 is for inputs of one size, .* reads inputs of any length"):
            apply_pitome(build(name), {"num_tokens": 15})


def test_parts_of_sound_are_called_audio():
    model = build("ASTModel")
    with pytest.raises(ValueError, match="no part 'vision'.*'audio'"):
        apply_pitome(model, {"vision": 0.9})
    apply_pitome(model, {"audio": 0.8})
    assert model.pitome.specs[0].ratio.kept == 0.8
