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
import inspect
import pickle
import threading

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    VipLlavaForConditionalGeneration,
)
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer
from zoo.llava import (
    GRID_MODELS,
    IMAGE_SIZE,
    IMAGE_TOKEN,
    NUM_PATCHES,
    PAD,
    TOWERS,
    grid_config,
    image,
    inputs,
    llava_config,
    prompt,
    text_config,
    vipllava_config,
)

from optimum_pitome import (
    PiToMeConfig,
    UnsupportedArchitectureError,
    apply_pitome,
    num_image_tokens,
    pitome_disabled,
    remove_pitome,
)
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens


def build(config=None, model_class=None, attn_implementation="sdpa"):
    """A seeded model whose tokens differ."""
    torch.manual_seed(0)
    config = config or llava_config()
    if model_class is None:
        model_class = (
            LlavaForConditionalGeneration if isinstance(config, LlavaConfig) else VipLlavaForConditionalGeneration
        )
    model = model_class._from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@torch.no_grad()
def logits(model, **kwargs):
    return model(**kwargs).logits


def left_padded(rows, side="left"):
    length = max(map(len, rows))
    pads = [[PAD] * (length - len(row)) for row in rows]
    masks = [[0] * len(pad) + [1] * len(row) for pad, row in zip(pads, rows)]
    ids = [pad + row for pad, row in zip(pads, rows)]
    if side == "right":
        ids, masks = [row + pad for pad, row in zip(pads, rows)], [mask[::-1] for mask in masks]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}


class Record:
    """Lengths that reach the language model, and how often each layer of the tower attends."""

    def __init__(self, model):
        self.lengths, self.layers = [], []
        base = model.model
        base.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: self.lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        for index, layer in enumerate(base.vision_tower.encoder.layers):
            layer.self_attn.register_forward_pre_hook(lambda module, args, index=index: self.layers.append(index))


# --- Numerics


needs_dinov2 = pytest.mark.skipif(
    "attention_mask" not in inspect.signature(Dinov2Layer.forward).parameters,
    reason="DINOv2 cannot be rewritten in this version of transformers: its layers pass no arguments on",
)
CONFIGS = {
    **{name: lambda name=name: llava_config(name) for name in TOWERS},
    "full": lambda: llava_config("clip", vision_feature_select_strategy="full"),
    "layer 1": lambda: llava_config("clip", vision_feature_layer=1),
    "list": lambda: llava_config("vit", vision_feature_layer=[-2, 1]),
    "vipllava": vipllava_config,
}


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
    """CLIP written out, with the core functions between attention and MLP: states and groups behind each layer."""
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
    # 64 - 12 - 10 - 8 patches are left behind the three layers that run.
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
    assert not any(spec.size_weighted or spec.proportional_attention for spec in specs)
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


def alone(model, row, pixel_values):
    kwargs = {} if pixel_values is None else {"pixel_values": pixel_values}
    return logits(model, input_ids=torch.tensor([row]), **kwargs)[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_different_numbers_of_images(side):
    model = apply_pitome(build(), 0.8)
    rows = [prompt(2), prompt(1, text=9), prompt(0, text=80)]
    pixels = image(3)
    batch = left_padded(rows, side)
    together = logits(model, **batch, pixel_values=pixels)
    assert together.shape[1] == max(len(row) - 30 * count for row, count in zip(rows, (2, 1, 0)))
    for index, (row, images) in enumerate(zip(rows, (pixels[:2], pixels[2:], None))):
        expected = alone(model, row, images)
        found = together[index][-len(expected) :] if side == "left" else together[index][: len(expected)]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_rows_with_equally_many_images_keep_their_padding():
    model = apply_pitome(build(), 0.8)
    batch = left_padded([prompt(1), prompt(1, text=2)])
    together = logits(model, **batch, pixel_values=image(2))
    assert together.shape[1] == batch["input_ids"].shape[1] - 30
    expected = alone(model, prompt(1, text=2), image(2)[1:])
    torch.testing.assert_close(together[1][-len(expected) :], expected, atol=2e-4, rtol=1e-4)


def test_generate_with_different_numbers_of_images():
    model = apply_pitome(build(), 0.8)
    rows, pixels = [prompt(2), prompt(0, text=70), prompt(1)], image(3)
    batch = left_padded(rows)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    together = model.generate(**batch, pixel_values=pixels, **settings)
    assert torch.equal(together[:, :-4], batch["input_ids"])
    for row, images, found in zip(rows, (pixels[:2], None, pixels[2:]), together):
        images = {} if images is None else {"pixel_values": images}
        expected = model.generate(input_ids=torch.tensor([row]), **images, **settings)
        assert torch.equal(found[-4:], expected[0, -4:])
    with pytest.raises(ValueError, match="attention_mask"):
        model.generate(input_ids=batch["input_ids"], pixel_values=pixels, **settings)


def test_labels_of_dropped_tokens_are_ignored():
    model, batch = build(), inputs(2)
    labels = batch["input_ids"].clone()
    apply_pitome(model, 0.8)
    with torch.no_grad():
        output = model(**batch, labels=labels)
    short = torch.tensor([prompt(num_placeholders=34)] * 2)
    predicted, targets = output.logits[:, :-1].flatten(0, 1), short[:, 1:].flatten()
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(predicted, targets))
    labels[labels == IMAGE_TOKEN] = -100
    with torch.no_grad():
        loss = model(**batch, labels=labels).loss
    kept = targets != IMAGE_TOKEN
    torch.testing.assert_close(loss, nn.functional.cross_entropy(predicted[kept], targets[kept]))


def test_embeddings_in_place_of_ids():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    expected = logits(model, **batch)
    generated = model.generate(**batch, max_new_tokens=4, do_sample=False)
    batch["inputs_embeds"] = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    assert torch.equal(logits(model, **batch), expected)
    only_new = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(only_new, generated[:, -only_new.shape[1] :])


def test_a_processor_may_write_the_short_prompt():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    expected = logits(model, **batch)
    count = num_image_tokens(model)
    ids = torch.tensor([prompt(num_placeholders=count)] * 2)
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": batch["pixel_values"]}
    assert torch.equal(logits(model, **short), expected)
    long_sequences = model.generate(**batch, max_new_tokens=3, do_sample=False)
    short_sequences = model.generate(**short, max_new_tokens=3, do_sample=False)
    assert torch.equal(short_sequences[:, : ids.shape[1]], ids)
    assert torch.equal(short_sequences[:, ids.shape[1] :], long_sequences[:, batch["input_ids"].shape[1] :])


def test_number_of_image_tokens():
    model = build()
    assert num_image_tokens(model) == num_image_tokens(model.config) == NUM_PATCHES
    apply_pitome(model, 0.8)
    assert num_image_tokens(model) == num_image_tokens(model.config) == num_image_tokens(model.model) == 34
    assert num_image_tokens(model, 2 * IMAGE_SIZE) == 256 - 51 - 41 - 32
    assert num_image_tokens(model, (IMAGE_SIZE, 2 * IMAGE_SIZE)) == 128 - 25 - 20 - 16
    with pitome_disabled(model):
        assert num_image_tokens(model) == NUM_PATCHES
    assert num_image_tokens(apply_pitome(build(vipllava_config()), 0.8)) == 34
    assert num_image_tokens(apply_pitome(model, PiToMeConfig(ratio=0.8, unmerge=True))) == NUM_PATCHES
    with pytest.raises(ValueError, match="LLaVA"):
        num_image_tokens(text_config())


@needs_dinov2
def test_another_image_size():
    model = apply_pitome(build(llava_config("dinov2")), 0.8)
    pixels = torch.randn(1, 3, 48, 48)
    ids = torch.tensor([prompt(num_placeholders=144)])
    assert logits(model, input_ids=ids, pixel_values=pixels).shape[1] == len(prompt(1, num_image_tokens(model, 48)))


def test_unmerging_keeps_the_prompt():
    model, batch = build(), inputs(2)
    dense = logits(model, **batch)
    apply_pitome(model, PiToMeConfig(ratio=0.8, unmerge=True))
    merged = logits(model, **batch)
    assert merged.shape == dense.shape and not torch.equal(merged, dense)
    with torch.no_grad():
        states = model.model.get_image_features(batch["pixel_values"]).hidden_states
    assert states[3].shape[1] == 1 + NUM_PATCHES and states[4] is None


def test_messages_for_prompts_that_cannot_shrink():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    ids, mask, pixels = batch["input_ids"], batch["attention_mask"], batch["pixel_values"]
    with pytest.raises(ValueError, match="expected 128 or 68"):
        model(input_ids=ids[:, :-10][:, 10:], pixel_values=pixels)
    with pytest.raises(ValueError, match="truncated"):
        uneven = ids.clone()
        uneven[0, 1], uneven[1, 10] = IMAGE_TOKEN, 3
        model(input_ids=uneven, pixel_values=pixels)
    with pytest.raises(ValueError, match="4 dimensions"):
        square = torch.ones(2, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        model(input_ids=ids, attention_mask=square, pixel_values=pixels)
    with pytest.raises(ValueError, match="counted from the end"):
        model(**batch, logits_to_keep=torch.tensor([70]))
    with pytest.raises(ValueError, match="length 60"):
        model(input_ids=ids, attention_mask=mask[:, :60], pixel_values=pixels)
    assert model(**batch, logits_to_keep=2).logits.shape[1] == 2


# --- The model around it


def test_deepcopy_pickle_and_threads():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    pickled = pickle.dumps(model)  # before the first forward: transformers' capture hooks do not pickle
    expected = logits(model, **batch)
    twin, loaded = copy.deepcopy(model), pickle.loads(pickled)
    remove_pitome(model)
    assert logits(model, **batch).shape[1] == batch["input_ids"].shape[1]
    assert torch.equal(logits(twin, **batch), expected)
    assert torch.equal(logits(loaded, **batch), expected)
    results = {}

    def work(index):
        results[index] = loaded.generate(**inputs(1 + index % 2), max_new_tokens=3, do_sample=False)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    assert torch.equal(results[0][0], results[1][0])


def test_the_classes_stay_as_they_are():
    model, plain = build(), build()
    apply_pitome(model, 0.8)
    assert type(model) is LlavaForConditionalGeneration
    batch = inputs(1)
    assert logits(plain, **batch).shape[1] == batch["input_ids"].shape[1]
    assert not plain._forward_pre_hooks and not plain.model._forward_pre_hooks
    remove_pitome(model)
    assert not model._forward_pre_hooks and not model.model._forward_pre_hooks


def _saved_dense(model, path):
    remove_pitome(copy.deepcopy(model)).save_pretrained(path)
    return path


def test_saved_and_loaded(tmp_path):
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    expected = logits(model, **batch)
    loaded = AutoModelForImageTextToText.from_pretrained(_saved_dense(model, tmp_path / "dense"), pitome=0.8)
    assert type(loaded) is LlavaForConditionalGeneration and torch.equal(logits(loaded, **batch), expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(LlavaForConditionalGeneration.from_pretrained(tmp_path), **batch), expected)
    dense = LlavaForConditionalGeneration.from_pretrained(tmp_path, pitome=False)
    assert logits(dense, **batch).shape[1] == batch["input_ids"].shape[1]


def test_gradients_reach_tower_projector_and_language_model():
    model, batch = apply_pitome(build(), 0.8).train(), inputs(2)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    missing = {name.split(".layers.")[-1] for name, p in model.named_parameters() if p.grad is None}
    # The last layer of the tower is not read (nor is it in the dense model), and neither is its last norm.
    assert all(name.startswith("3.") or "post_layernorm" in name for name in missing), missing


@pytest.mark.parametrize("model_class", GRID_MODELS, ids=lambda model_class: model_class.__name__)
def test_grids_refuse_to_shrink_and_say_why(model_class):
    model = build(grid_config(GRID_MODELS[model_class]), model_class)
    with pytest.raises(UnsupportedArchitectureError, match="fixed grid.*unmerge=True"):
        apply_pitome(model, 0.8)
    assert not hasattr(model.config, "pitome")
    # Two tiles and the whole picture; the tiles' rows end in a newline token.
    pixels, sizes = image(1, 3), torch.tensor([[IMAGE_SIZE, 2 * IMAGE_SIZE]])
    with torch.no_grad():
        count = len(model.get_image_features(pixels, sizes).pooler_output[0])
    ids = torch.tensor([prompt(num_placeholders=count)])
    batch = {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}
    dense = logits(model, **batch)
    apply_pitome(model, 1.0)
    assert torch.equal(logits(model, **batch), dense)
    apply_pitome(model, PiToMeConfig(ratio=0.8, unmerge=True))
    merged = logits(model, **batch)
    assert merged.shape == dense.shape and not torch.equal(merged, dense)
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] <= ids.shape[1] + 2
