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

"""`generate`, pipelines and the Trainer on a LLaVA whose prompt shrinks: what users rely on does not change."""

import copy
import inspect

import numpy as np
import pytest
import torch
from families.llava_helpers import build, logits
from transformers import (
    DynamicCache,
    LlavaForConditionalGeneration,
    LogitsProcessor,
    MaxLengthCriteria,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)
from zoo.llava import (
    IMAGE_TOKEN,
    NUM_PATCHES,
    image,
    inputs,
    llava_config,
    make_processor,
    picture,
    prompt,
    vipllava_config,
)

from optimum_pitome import apply_pitome, num_image_tokens


KEPT = 34
SETTINGS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
#: What a cache is called: since transformers 5.24 by both names, the old one with a warning.
CACHE_NAMES = [
    *(["cache"] if "cache" in inspect.signature(LlavaForConditionalGeneration.forward).parameters else []),
    pytest.param("past_key_values", marks=pytest.mark.filterwarnings("ignore:.*past_key_values")),
]


def short(batch):
    """The same prompts as a processor writes them that knows the short number."""
    rows = torch.tensor([prompt(num_placeholders=KEPT)] * len(batch["input_ids"]))
    return {**batch, "input_ids": rows, "attention_mask": torch.ones_like(rows)}


@pytest.fixture(params=[llava_config, vipllava_config], ids=["llava", "vipllava"])
def model(request):
    return apply_pitome(build(request.param()), 0.8)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True},
        {"do_sample": True, "num_return_sequences": 3},
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"repetition_penalty": 1.3, "min_new_tokens": 2},
    ],
    ids=str,
)
def test_what_comes_back_is_the_prompt_and_the_new_tokens(model, settings):
    batch = inputs(2)
    settings = {**SETTINGS, **settings}
    torch.manual_seed(3)
    found = model.generate(**batch, **settings)
    torch.manual_seed(3)
    expected = model.generate(**short(batch), **settings)
    length, repeats = batch["input_ids"].shape[1], settings.get("num_return_sequences", 1)
    assert torch.equal(found[:, :length], batch["input_ids"].repeat_interleave(repeats, dim=0))
    assert torch.equal(found[:, length:], expected[:, -4:])


def test_outputs_as_a_dictionary():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    output = model.generate(
        **batch, **SETTINGS, return_dict_in_generate=True, output_scores=True, output_hidden_states=True
    )
    assert output.sequences.shape[1] == batch["input_ids"].shape[1] + 4 and len(output.scores) == 4
    assert output.hidden_states[0][0].shape[1] == batch["input_ids"].shape[1] - NUM_PATCHES + KEPT
    # The first new token is the best one of an ordinary forward.
    assert torch.equal(output.sequences[:, -4], logits(model, **batch)[:, -1].argmax(dim=-1))


def test_ids_as_the_first_argument():
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    expected = model.generate(**batch, **SETTINGS)
    ids = batch.pop("input_ids")
    assert torch.equal(model.generate(ids, **batch, **SETTINGS), expected)


def test_assisted_generation():
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    expected = model.generate(**batch, **SETTINGS)
    assert torch.equal(model.generate(**batch, **SETTINGS, prompt_lookup_num_tokens=2), expected)
    assistant = copy.deepcopy(model)
    assert torch.equal(model.generate(**batch, **SETTINGS, assistant_model=assistant), expected)


class Seen(LogitsProcessor, StoppingCriteria):
    """Looks at the sequences as a processor and as a criterion."""

    def __init__(self):
        self.sequences = []

    def __call__(self, input_ids, scores):
        self.sequences.append(input_ids.clone())
        return scores if isinstance(scores, torch.Tensor) else torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_callers_own_code_sees_the_prompt_it_gave(num_beams):
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    ids = batch["input_ids"]
    processor, criterion, asked = Seen(), Seen(), []

    def allowed(batch_id, sequence):
        asked.append(torch.equal(sequence[: ids.shape[1]], ids[batch_id]))
        return list(range(3, 40))

    found = model.generate(
        **batch,
        **SETTINGS,
        num_beams=num_beams,
        logits_processor=[processor],
        stopping_criteria=[criterion],
        prefix_allowed_tokens_fn=allowed,
    )
    assert all(torch.equal(seen[:: len(seen) // 2, : ids.shape[1]], ids) for seen in processor.sequences)
    assert all(torch.equal(seen[:: len(seen) // 2, : ids.shape[1]], ids) for seen in criterion.sequences)
    assert asked and all(asked) and found[:, ids.shape[1] :].max() < 40


def test_lengths_that_count_the_prompt():
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    length = batch["input_ids"].shape[1]
    settings = {"do_sample": False, "eos_token_id": None}
    assert model.generate(**batch, **settings, max_length=length + 3).shape[1] == length + 3
    with pytest.warns(UserWarning, match="max_length"):
        assert model.generate(**batch, **settings).shape[1] == length + 20  # the default: 20 new tokens
    stop = [MaxLengthCriteria(length + 2)]
    with pytest.warns(UserWarning, match="max_length"):
        assert model.generate(**batch, **settings, stopping_criteria=stop).shape[1] == length + 2
    settings["eos_token_id"] = int(model.generate(**batch, **SETTINGS)[0, length])
    assert model.generate(**batch, **settings, max_length=length + 9).shape[1] == length + 1
    assert model.generate(**batch, **settings, max_length=length + 9, min_length=length + 5).shape[1] >= length + 5


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_conversation_that_continues_from_its_cache(name):
    model, batch = apply_pitome(build(), 0.8), inputs(1)
    first = model.generate(**batch, **SETTINGS, **{name: DynamicCache()}, return_dict_in_generate=True)
    cache = getattr(first, name)
    longer = torch.cat([first.sequences, torch.tensor([[40, 41, 42]])], dim=1)
    again = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    expected = model.generate(**again, pixel_values=batch["pixel_values"], **SETTINGS)
    assert torch.equal(model.generate(**again, **{name: copy.deepcopy(cache)}, **SETTINGS), expected)
    # A new picture in the second question: pixels of the new one only, as on the dense model.
    asked = torch.cat([longer, torch.tensor([prompt()[1:]])], dim=1)
    both = {"input_ids": asked, "attention_mask": torch.ones_like(asked)}
    pictures = torch.cat([batch["pixel_values"], image(1, seed=5)])
    expected = logits(model, **both, pixel_values=pictures)[:, -1]
    found = []
    model.lm_head.register_forward_hook(lambda module, args, output: found.append(output[:, -1]))
    new = asked[:, longer.shape[1] - 4 :]  # the last answer token and what followed are not in the cache
    past = copy.deepcopy(cache)
    mask = torch.ones(1, past.get_seq_length() + new.shape[1], dtype=torch.long)
    logits(model, input_ids=new, attention_mask=mask, pixel_values=pictures[1:], **{name: past})
    torch.testing.assert_close(found[-1], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="whole conversation"):
        logits(
            model,
            input_ids=new,
            attention_mask=torch.ones_like(asked),
            pixel_values=pictures[1:],
            **{name: past},
        )


@pytest.mark.skipif(
    "mm_encoder_outputs" not in inspect.signature(LlavaForConditionalGeneration.forward).parameters,
    reason="this version of transformers takes no features",
)
def test_features_computed_before():
    model, batch = apply_pitome(build(), 0.8), inputs(2)
    expected = logits(model, **batch)
    with torch.no_grad():
        features = model.model.get_image_features(batch.pop("pixel_values"), return_dict=True)
    assert torch.equal(logits(model, **batch, mm_encoder_outputs={"image": features}), expected)


# --- Processor, streaming, pipeline, Trainer


@pytest.fixture
def processor():
    return make_processor()


def test_streaming(processor):
    model = apply_pitome(build(), 0.8)
    batch = processor(images=picture(), text="w5 <image> w6 w7", return_tensors="pt")
    assert (batch["input_ids"] == IMAGE_TOKEN).sum() == NUM_PATCHES
    expected = model.generate(**batch, **SETTINGS)[0]
    for skip_prompt in (False, True):
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=skip_prompt)
        model.generate(**batch, **SETTINGS, streamer=streamer)
        text = "".join(streamer)
        start = batch["input_ids"].shape[1] if skip_prompt else 0
        assert text == processor.tokenizer.decode(expected[start:])


def test_text_streamer(processor, capsys):
    model = apply_pitome(build(), 0.8)
    batch = processor(images=picture(), text="w5 <image> w6 w7", return_tensors="pt")
    output = model.generate(**batch, **SETTINGS, streamer=TextStreamer(processor.tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.split() == processor.tokenizer.decode(output[0, -4:]).split()


def test_pipeline(processor):
    model = apply_pitome(build(), 0.8)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "w6 w7"}]}
    ]
    batch = processor(images=picture(), text="<image> w6 w7", return_tensors="pt")
    expected = processor.tokenizer.decode(model.generate(**batch, **SETTINGS)[0, -4:], skip_special_tokens=True)
    answer = pipe(text=messages, generate_kwargs=SETTINGS, return_full_text=False)
    assert answer[0]["generated_text"].split() == expected.split()


def test_trainer(processor, tmp_path):
    model = apply_pitome(build(), 0.8)
    texts = ["w5 <image> w6 w7", "<image> w8", "w9 w10 w11"]
    pictures = [[picture(1)], [picture(2)], []]

    def collate(indices):
        batch = processor(
            images=[picture for index in indices for picture in pictures[index]] or None,
            text=[texts[index] for index in indices],
            padding=True,
            return_tensors="pt",
        )
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=3, report_to=[], remove_unused_columns=False, use_cpu=True
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=[0, 1, 2], eval_dataset=[0, 1, 2], data_collator=collate
    )
    assert np.isfinite(trainer.train().training_loss)
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    for name in ("model.multi_modal_projector.linear_1.weight", "lm_head.weight"):
        assert not torch.equal(before[name], model.get_parameter(name))
    assert num_image_tokens(model) == KEPT
