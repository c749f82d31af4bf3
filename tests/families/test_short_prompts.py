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

"""PaliGemma, ColPali and DeepSeek-VL: prompts as short as what leaves their tower. (How a prompt is shortened in every
form that it may have, test_llava_prompt.py and test_llava_generate.py say.)"""

import copy

import pytest
import torch
from families.llava_helpers import left_padded, logits
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    ColPaliForRetrieval,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    pipeline,
)
from zoo import hosts
from zoo.llava import IMAGE_SIZE, IMAGE_TOKEN, NUM_PATCHES, image, make_tokenizer, prompt

from optimum_pitome import PiToMeConfig, apply_pitome, num_image_tokens, pitome_disabled, pitome_summary
from optimum_pitome.families.llava.counts import SHORT_PROMPTS
from optimum_pitome.families.llava.processor import picture_size, write_short_prompts
from optimum_pitome.merging import KeepRatio, MergeSpec, TokenMasks, match_tokens


KEPT = 64 - 12 - 10 - 8 - 6  # after each of the four layers, at a ratio of .8
CASES = {case.id: case for case in hosts.CASES if case.shortens}
GENERATING = [name for name in CASES if "ForConditionalGeneration" in name]
each_chat = pytest.mark.parametrize("name", GENERATING)
SETTINGS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}


def test_every_short_prompt_has_a_model_here():
    """LLaVA's own have their files."""
    assert {case.config().model_type for case in CASES.values()} == set(SHORT_PROMPTS) - {"llava", "vipllava"}


def short(batch, dropped=NUM_PATCHES - KEPT):
    """What a processor writes that knows the short number: fewer of the first image's placeholders."""
    first = int((batch["input_ids"][0] == IMAGE_TOKEN).nonzero()[0])
    cut = [name for name in batch if name in ("input_ids", "attention_mask", "token_type_ids")]
    return {
        **batch,
        **{name: torch.cat([batch[name][:, :first], batch[name][:, first + dropped :]], dim=1) for name in cut},
    }


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_is_as_short_as_the_features(name):
    case = CASES[name]
    model, batch = apply_pitome(case.build(), 0.8), case.inputs(2)
    lengths = []
    language_model = model.get_submodule("vlm" if name.startswith("Col") else "model").language_model
    language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with torch.no_grad():
        output, expected = model(**batch), model(**short(batch))
    assert lengths == [batch["input_ids"].shape[1] - NUM_PATCHES + KEPT] * 2
    found = output.embeddings if "embeddings" in output else output.logits
    assert torch.equal(found, expected.embeddings if "embeddings" in output else expected.logits)
    assert found.shape[1] == lengths[0]
    assert num_image_tokens(model) == num_image_tokens(model.config) == KEPT
    with pitome_disabled(model):
        assert num_image_tokens(model) == NUM_PATCHES
    reader = pitome_summary(model).reader
    assert (reader.image_tokens_dense, reader.image_tokens_merged) == (NUM_PATCHES, KEPT)
    apply_pitome(model, PiToMeConfig(ratio=0.8, unmerge=True))
    assert num_image_tokens(model) == num_image_tokens(model.config) == NUM_PATCHES


def merged_features(tower, pixel_values):
    """SigLIP written out, with the core functions between attention and MLP: what leaves the tower."""
    hidden_states = tower.embeddings(pixel_values)
    batch_size, num_tokens, dim = hidden_states.shape
    sizes = torch.ones(batch_size, num_tokens)
    spec = MergeSpec(KeepRatio.from_float(0.8), margin=0.5)
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        normed = layer.layer_norm1(hidden_states)
        query, key, value = (
            projection(normed).view(batch_size, -1, attention.num_heads, attention.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = query @ key.transpose(-1, -2) * attention.scale + sizes.log()[:, None, None, :]
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch_size, -1, dim)
        hidden_states = hidden_states + attention.out_proj(mixed)
        plan = match_tokens(key.mean(dim=1), spec, TokenMasks(num_prefix_tokens=0))
        hidden_states, sizes = plan.merge(hidden_states, sizes), plan.merge_sizes(sizes)
        hidden_states = hidden_states + layer.mlp(layer.layer_norm2(hidden_states))
    return tower.post_layernorm(hidden_states)


@each_chat
def test_it_equals_an_independent_computation(name):
    """Of PaliGemma, the tokens of the prefix see one another, images and text; those after it see what is before."""
    case = CASES[name]
    model, batch = case.build(), case.inputs(2)
    dense = copy.deepcopy(model)
    found = logits(apply_pitome(model, PiToMeConfig(ratio=0.8, margin=0.5)), **batch)
    ids, base, is_prefix_model = short(batch)["input_ids"], dense.model, "token_type_ids" in batch
    with torch.no_grad():
        tower = base.vision_tower if is_prefix_model else base.vision_model
        project = base.multi_modal_projector if is_prefix_model else base.aligner
        features = project(merged_features(tower, batch["pixel_values"]))
        embedded = base.get_input_embeddings()(ids)
        embedded[ids == IMAGE_TOKEN] = features.flatten(0, 1)
        length = ids.shape[1]
        places = torch.arange(length)
        before = places[:, None] - places[None, :]
        prefix = (places < length - 2) & is_prefix_model
        block = prefix[None, :] & prefix[:, None]
        visible, near = (before >= 0) | block, ((before >= 0) & (before < 16)) | block
        attend = {
            kind: torch.where(mask, 0.0, torch.finfo(torch.float32).min).expand(2, 1, -1, -1)
            for kind, mask in (("full_attention", visible), ("sliding_attention", near))
        }
        position_ids = places[None] + int(is_prefix_model)
        mask = attend if name.endswith("2") else attend["full_attention"]
        states = base.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        expected = dense.lm_head(states)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 2}, {"cache_implementation": "static", "disable_compile": True}, {"use_cache": False}],
    ids=str,
)
@each_chat
def test_generate_returns_the_prompt_that_it_got(name, settings):
    case = CASES[name]
    model, batch = apply_pitome(case.build(), 0.8), case.inputs(2)
    if "token_type_ids" in batch:
        batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])  # a question, without an answer
    if name.endswith("2") and "cache_implementation" in settings:
        pytest.skip("PaliGemma 2 has no static cache in transformers: two kinds of layers, one mask")
    settings = {**SETTINGS, **settings}
    found, expected = model.generate(**batch, **settings), model.generate(**short(batch), **settings)
    assert torch.equal(found[:, :-4], batch["input_ids"]) and torch.equal(found[:, -4:], expected[:, -4:])
    with pitome_disabled(model):
        assert model.generate(**batch, **settings).shape == found.shape


@each_chat
def test_rows_of_any_length_and_number_of_images(name):
    model = apply_pitome(CASES[name].build(), 0.8)
    pixels, rows = image(3), [prompt(2), prompt(1, text=9)]
    batch = left_padded(rows)
    types = {} if "Deepseek" in name else {"token_type_ids": torch.zeros_like(batch["input_ids"])}
    together = logits(model, **batch, **types, pixel_values=pixels)
    for index, (row, images) in enumerate(zip(rows, (pixels[:2], pixels[2:]))):
        types = {name: value[:1, : len(row)] for name, value in types.items()}
        mask = torch.ones(1, len(row), dtype=torch.long)
        one = logits(model, input_ids=torch.tensor([row]), attention_mask=mask, **types, pixel_values=images)[0]
        torch.testing.assert_close(together[index][-len(one) :], one, atol=2e-4, rtol=1e-4)


@each_chat
def test_saved_and_loaded(name, tmp_path):
    case = CASES[name]
    model, batch = apply_pitome(case.build(), 0.8), case.inputs(1)
    expected = logits(model, **batch)
    model.save_pretrained(tmp_path / "merging")
    PiToMeConfig(ratio=0.8, base_model_name_or_path=str(tmp_path / "merging")).save_pretrained(tmp_path / "recipe")
    for folder in ("merging", "recipe"):
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(logits(loaded, **batch), expected, atol=1e-5, rtol=1e-5)


def test_labels_of_dropped_tokens_are_ignored():
    case = CASES["PaliGemmaForConditionalGeneration"]
    model, batch = apply_pitome(case.build(), 0.8), case.inputs(2)
    labels = batch["input_ids"].masked_fill(batch["token_type_ids"] == 0, -100)
    output = model(**batch, labels=labels)
    predicted, targets = output.logits[:, -3:-1].flatten(0, 1), labels[:, -2:].flatten()
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(predicted, targets))
    output.loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


def test_vectors_of_a_page_in_colpali():
    """Fewer of them, and what the mask leaves out is zero, as in the dense model; queries stay as they are."""
    case = CASES["ColPaliForRetrieval"]
    model, batch = apply_pitome(case.build(), 0.8), case.inputs(2)
    assert isinstance(model, ColPaliForRetrieval)
    batch["input_ids"][0, :3], batch["attention_mask"][0, :3] = 0, 0
    query = {name: batch[name][:, -3:] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        pages, queries = model(**batch).embeddings, model(**query).embeddings
        with pitome_disabled(model):
            assert torch.equal(model(**query).embeddings, queries)
            assert model(**batch).embeddings.shape[1] == pages.shape[1] + NUM_PATCHES - KEPT
    norms = pages.norm(dim=-1)
    assert (norms[0, :3] == 0).all() and torch.allclose(norms[0, 3:], torch.ones(len(norms[0]) - 3))


# --- Processor and pipeline


def paligemma_processor() -> PaliGemmaProcessor:
    tokenizer = make_tokenizer("<pad>", "<s>", "</s>", "\n")
    tokenizer.image_token, tokenizer.image_token_id = "<image>", IMAGE_TOKEN
    pictures = SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    pictures.image_seq_length = NUM_PATCHES
    return PaliGemmaProcessor(pictures, tokenizer)


def picture():
    return Image.effect_noise((40, 40), 60).convert("RGB")


#: transformers makes labels by np.array(tensor).
numpys_warning = pytest.mark.filterwarnings("ignore:__array__ implementation")


@numpys_warning
def test_the_processor_writes_the_short_prompt():
    model = apply_pitome(CASES["PaliGemmaForConditionalGeneration"].build(), 0.8)
    long, processor, one = paligemma_processor(), paligemma_processor(), picture()
    write_short_prompts(processor, model)
    assert picture_size(processor) == (IMAGE_SIZE, IMAGE_SIZE)
    found, expected = (each(images=one, text="<image> w6 w7", return_tensors="pt") for each in (processor, long))
    assert int((expected["input_ids"] == IMAGE_TOKEN).sum()) == NUM_PATCHES
    if "replace_image_token" in vars(PaliGemmaProcessor):
        assert found["input_ids"].shape[1] == expected["input_ids"].shape[1] - NUM_PATCHES + KEPT
    answers = [model.generate(**each, **SETTINGS)[:, each["input_ids"].shape[1] :] for each in (found, expected)]
    assert torch.equal(*answers) and answers[0].shape == (1, 4)


@numpys_warning
def test_pipeline():
    model, processor, one = CASES["PaliGemmaForConditionalGeneration"].build(), paligemma_processor(), picture()

    def answer(ratio):
        pipe = pipeline("image-text-to-text", model=apply_pitome(model, ratio), processor=processor)
        (row,) = pipe(images=[one], text=["<image> w6 w7"], generate_kwargs=SETTINGS, return_full_text=False)
        return row["generated_text"]

    merged = answer(0.8)
    batch = processor(images=one, text="<image> w6 w7", return_tensors="pt")
    expected = model.generate(**batch, **SETTINGS)[0, -4:]
    assert merged.split() == processor.decode(expected, skip_special_tokens=True).split()
    dense = answer(1.0)
    with pitome_disabled(model):
        assert answer(1.0) == dense
