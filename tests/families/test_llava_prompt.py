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

"""LLaVA: prompts of every form, and the model as a thing to copy, save and train."""

import copy
import pickle
import threading

import pytest
import torch
from families.llava_helpers import alone, build, left_padded, logits, needs_dinov2
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    LlavaForConditionalGeneration,
)
from transformers.utils import output_capturing
from zoo.hosts import CASES as grid_cases
from zoo.llava import (
    GRID_MODELS,
    IMAGE_SIZE,
    IMAGE_TOKEN,
    NUM_PATCHES,
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
    pitome_summary,
    remove_pitome,
)


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
    assert states[3].shape[1] == 1 + NUM_PATCHES
    if hasattr(output_capturing, "select_hidden_states"):
        assert states[4] is None


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
    assert str(pitome_summary(twin)) == str(pitome_summary(loaded)) == str(pitome_summary(model))
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
def test_grids_keep_the_prompt(model_class):
    """They merge inside the tower; what else holds for them, the family tests say."""
    case = next(case for case in grid_cases if case.model_class is model_class)
    model, batch = case.build(), case.inputs(1)
    dense = logits(model, **batch)
    with pytest.raises(UnsupportedArchitectureError, match=f"{model_class.__name__} .*unmerge=True"):
        apply_pitome(model, {"ratio": 0.8, "unmerge": False})
    merged = logits(apply_pitome(model, 0.8), **batch)
    assert merged.shape == dense.shape and not torch.equal(merged, dense)
    assert torch.equal(logits(apply_pitome(model, {"ratio": 0.8, "unmerge": True}), **batch), merged)
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape[1] <= batch["input_ids"].shape[1] + 2


def test_more_images_than_places_for_them():
    """Half of the tokens stay, so two images have as many features as one has placeholders."""
    model = apply_pitome(build(), {"ratio": 0.5, "layers": [0]})
    assert 2 * num_image_tokens(model) == NUM_PATCHES
    ids = torch.tensor([prompt(1)])
    with pytest.raises(ValueError, match="64 image placeholders in a row for 2 image.*more images than places"):
        logits(model, input_ids=ids, pixel_values=image(2))
    with pytest.raises(ValueError, match="more images than places"):
        model.generate(input_ids=ids, pixel_values=image(2), max_new_tokens=1)
    short = torch.tensor([prompt(2, num_placeholders=NUM_PATCHES // 2)])
    expected = logits(model, input_ids=torch.tensor([prompt(2)]), pixel_values=image(2))
    assert torch.equal(logits(model, input_ids=short, pixel_values=image(2)), expected)
