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

"""LLaVA: what disappears from the tower disappears from the prompt, and what is left is what the method says."""

import copy

import pytest
import torch
from families.llava_helpers import CONFIGS, Record, build, logits, needs_dinov2
from transformers import (
    LlavaConfig,
)
from transformers.utils import output_capturing
from zoo.llava import (
    IMAGE_TOKEN,
    NUM_PATCHES,
    inputs,
    prompt,
    text_config,
    vipllava_config,
)

from optimum_pitome import (
    PiToMeConfig,
    apply_pitome,
    num_image_tokens,
    pitome_disabled,
    remove_pitome,
)
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_dinov2 if name == "dinov2" else ()) for name in CONFIGS]
)
def test_ratio_one_is_the_dense_model(name, attn_implementation):
    config = CONFIGS[name]()
    model, batch = build(config, attn_implementation=attn_implementation), inputs(2)
    if name in ("full", "siglip"):
        extra = NUM_PATCHES + (name == "full")
        batch["input_ids"] = torch.tensor([prompt(num_placeholders=extra)] * 2)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    dense, generated = logits(model, **batch), model.generate(**batch, max_new_tokens=4, do_sample=False)
    apply_pitome(model, 1.0)
    assert torch.equal(logits(model, **batch), dense)
    assert torch.equal(model.generate(**batch, max_new_tokens=4, do_sample=False), generated)
    apply_pitome(model, 0.8)
    shorter = logits(model, **batch)
    assert shorter.shape[1] < dense.shape[1]
    with pitome_disabled(model):
        assert torch.equal(logits(model, **batch), dense)
        assert torch.equal(model.generate(**batch, max_new_tokens=4, do_sample=False), generated)
    assert torch.equal(logits(model, **batch), shorter)
    remove_pitome(model)
    assert torch.equal(logits(model, **batch), dense)


def merged_clip_states(tower, pixel_values, specs):
    """CLIP written out, with the core functions between attention and MLP: states and groups after each layer."""
    hidden_states = tower.pre_layrnorm(tower.embeddings(pixel_values))
    batch_size, num_tokens, dim = hidden_states.shape
    sizes = torch.ones(batch_size, num_tokens)
    group = torch.arange(num_tokens).expand(batch_size, -1)
    states, groups = [hidden_states], [group]
    for layer, spec in zip(tower.encoder.layers, specs):
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden_states)
        query, key, value = (
            projection(normed).view(batch_size, -1, attention.num_heads, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = query @ key.transpose(-1, -2) * attention.scale + sizes.log()[:, None, None, :]
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch_size, -1, dim)
        hidden_states = hidden_states + attention.out_proj(mixed)
        attention = scores.softmax(dim=-1)[:, :, 0].mean(dim=1)
        plan = match_tokens(key.mean(dim=1), spec, TokenMasks(num_prefix_tokens=1, attention=attention))
        hidden_states, sizes = plan.merge(hidden_states, sizes), plan.merge_sizes(sizes)
        group = plan.assignment.gather(1, group)
        hidden_states = hidden_states + layer.mlp(layer.layer_norm2(hidden_states))
        states.append(hidden_states)
        groups.append(group)
    return states, groups


def answer_by_hand(model, features, before, after):
    """The bare language model on text, features and text."""
    embed = model.get_input_embeddings()
    spliced = torch.cat([embed(before), features, embed(after)], dim=1)
    return model.lm_head(model.model.language_model(inputs_embeds=spliced).last_hidden_state)


def split_prompt(input_ids):
    start = int((input_ids[0] == IMAGE_TOKEN).nonzero()[0])
    return input_ids[:, :start], input_ids[:, start + NUM_PATCHES :]


SPEC = MergeSpec(KeepRatio.from_float(0.8), margin=0.5, importance=0.5)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_llava_equals_an_independent_computation(attn_implementation):
    model, batch = build(attn_implementation=attn_implementation), inputs(2)
    dense = copy.deepcopy(model)
    apply_pitome(model, PiToMeConfig(ratio=0.8, margin=0.5))
    with torch.no_grad():
        states, _ = merged_clip_states(dense.model.vision_tower, batch["pixel_values"], [SPEC] * 3)
        features = dense.model.multi_modal_projector(states[3][:, 1:])
        expected = answer_by_hand(dense, features, *split_prompt(batch["input_ids"]))
    # 64 - 12 - 10 - 8 patches are left after the three layers that run.
    assert features.shape[1] == 34 == num_image_tokens(model)
    torch.testing.assert_close(logits(model, **batch), expected, atol=1e-5, rtol=1e-5)


def test_features_of_several_layers_are_means_over_the_last_ones_groups():
    model, batch = build(vipllava_config()), inputs(2)
    dense = copy.deepcopy(model)
    apply_pitome(model, PiToMeConfig(ratio=0.8, margin=0.5))
    layers = (3, 1, 2)  # [-2, 1, -3] of five hidden states
    with torch.no_grad():
        states, groups = merged_clip_states(dense.model.vision_tower, batch["pixel_values"], [SPEC] * 3)
        last = groups[3]
        selected = []
        for layer in layers:
            full = torch.stack([state[group] for state, group in zip(states[layer], groups[layer])])
            means = [
                torch.stack([row[slot == index].mean(dim=0) for index in range(1 + 34)])
                for row, slot in zip(full, last)
            ]
            selected.append(torch.stack(means)[:, 1:])
        features = dense.model.multi_modal_projector(torch.cat(selected, dim=-1))
        expected = answer_by_hand(dense, features, *split_prompt(batch["input_ids"]))
    torch.testing.assert_close(logits(model, **batch), expected, atol=1e-5, rtol=1e-5)


# --- The tokens are gone


#: Before transformers 5.24 a tower is asked for all of its hidden states, so all of its layers run.
needs_selection = pytest.mark.skipif(
    not hasattr(output_capturing, "select_hidden_states"), reason="nobody says which hidden states are read"
)


@needs_selection
def test_prefill_and_cache_are_short_and_the_last_layers_do_not_run():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    record = Record(model)
    length = batch["input_ids"].shape[1] - NUM_PATCHES + 34
    with torch.no_grad():
        output = model(**batch)
    assert output.logits.shape[1] == output.past_key_values.get_seq_length() == length
    assert record.lengths == [length] and record.layers == [0, 1, 2]
    record.lengths.clear(), record.layers.clear()
    output = model.generate(
        **batch, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, eos_token_id=None
    )
    assert record.lengths == [length, 1, 1] and record.layers == [0, 1, 2]
    assert output.past_key_values.get_seq_length() == length + 2


@needs_selection
def test_a_caller_may_choose_the_layer_and_all_hidden_states():
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    record = Record(model)
    assert logits(model, **batch, vision_feature_layer=1).shape[1] == batch["input_ids"].shape[1] - 12
    assert record.layers == [0]
    record.layers.clear()
    with torch.no_grad():
        features = model.get_image_features(batch["pixel_values"], output_hidden_states=True, vision_feature_layer=1)
    assert len(features.pooler_output[0]) == NUM_PATCHES - 12
    assert [state.shape[1] - 1 for state in features.hidden_states] == [64, 52, 42, 34, 28]
    with pytest.raises(ValueError, match="out of range"):
        model(**batch, vision_feature_layer=7)


def test_positions_are_contiguous():
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    seen = {}
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    positions = torch.arange(batch["input_ids"].shape[1])[None] + 5
    before = positions.clone()
    logits(model, **batch, position_ids=positions)
    assert torch.equal(seen["position_ids"], torch.arange(seen["inputs_embeds"].shape[1])[None] + 5)
    assert torch.equal(positions, before)


@pytest.mark.parametrize("ratio, expected", [(0.975, 330), (0.95, 183), (0.925, 101), (0.9, 54), (0.85, 17)])
def test_the_released_codes_token_counts(ratio, expected):
    """paper.md: LLaVA-1.5's 576 tokens, of a 24-layer tower at 336 pixels; narrow here."""
    vision = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 24}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **vision},
        text_config=text_config(),
        image_token_index=IMAGE_TOKEN,
    )
    model = build(config)
    assert num_image_tokens(model) == 576
    apply_pitome(model, PiToMeConfig.official(ratio=ratio))
    assert num_image_tokens(model) == num_image_tokens(model.config) == expected
    specs = model.model.vision_tower.pitome.specs
    assert [spec.algorithm for spec in specs] == ["tome"] * 13 + ["pitome"] * 11
    assert all(spec.after == "layer" and spec.metric == "hidden_states" for spec in specs)
    assert not any(spec.weighted_by != "nothing" or spec.proportional_attention for spec in specs)
    ids = torch.tensor([prompt(num_placeholders=576)])
    pixels = torch.randn(1, 3, 336, 336)
    assert logits(model, input_ids=ids, pixel_values=pixels).shape[1] == ids.shape[1] - 576 + expected


def test_the_released_code_compares_and_merges_behind_whole_layers():
    model, batch = build(), inputs(1)
    dense = copy.deepcopy(model)
    apply_pitome(model, PiToMeConfig.official(ratio=0.8))
    specs = model.model.vision_tower.pitome.specs
    with torch.no_grad():
        tower = dense.model.vision_tower
        hidden_states = tower.pre_layrnorm(tower.embeddings(batch["pixel_values"]))
        for layer, spec in zip(tower.encoder.layers[:3], specs):
            hidden_states = layer(hidden_states, None)
            hidden_states = match_tokens(hidden_states, spec, TokenMasks(num_prefix_tokens=1)).merge(hidden_states)
        features = dense.model.multi_modal_projector(hidden_states[:, 1:])
        expected = answer_by_hand(dense, features, *split_prompt(batch["input_ids"]))
    torch.testing.assert_close(logits(model, **batch), expected, atol=1e-5, rtol=1e-5)


# --- Prompts of every shape
