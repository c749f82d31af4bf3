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

"""Processors that write the short prompt of a LLaVA themselves."""

import pytest
import torch
from families.llava_helpers import build
from zoo.llava import IMAGE_SIZE, NUM_PATCHES, llava_config, make_processor, picture, vipllava_config

from optimum_pitome import apply_pitome, num_image_tokens, pitome_disabled
from optimum_pitome.families.llava import processor as module
from optimum_pitome.families.llava.processor import picture_size, tokens_of_a_picture, write_short_prompts


def encode(processor, *pictures):
    text = "w9 " + "<image> w20 " * len(pictures)
    return processor(images=list(pictures), text=text, return_tensors="pt")


@pytest.mark.parametrize("config", [None, vipllava_config()], ids=["llava", "vipllava"])
def test_short_prompts_are_those_that_the_model_makes(config):
    model, short, long = apply_pitome(build(config), 0.7), make_processor(), make_processor()
    write_short_prompts(short, model)
    write_short_prompts(short, model)  # a second time, nothing happens
    for pictures in ([picture()], [picture(1), picture(2)]):
        inputs, expected = encode(short, *pictures), encode(long, *pictures)
        removed = len(pictures) * (NUM_PATCHES - num_image_tokens(model))
        assert (
            inputs["input_ids"].shape[1] == expected["input_ids"].shape[1] - removed < expected["input_ids"].shape[1]
        )
        new = [
            model.generate(**each, max_new_tokens=6, do_sample=False)[:, each["input_ids"].shape[1] :]
            for each in (inputs, expected)
        ]
        assert torch.equal(*new) and new[0].shape == (1, 6)
    with pitome_disabled(model):
        assert torch.equal(encode(short, picture())["input_ids"], encode(long, picture())["input_ids"])


def test_what_is_saved_is_the_ordinary_processor(tmp_path):
    processor = make_processor()
    write_short_prompts(processor, apply_pitome(build(), 0.7))
    processor.save_pretrained(tmp_path / "short")
    make_processor().save_pretrained(tmp_path / "long")
    files = sorted(path.name for path in (tmp_path / "long").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "short").iterdir())
    assert all((tmp_path / "short" / name).read_bytes() == (tmp_path / "long" / name).read_bytes() for name in files)


def test_the_size_of_pictures_is_the_processors(monkeypatch):
    """The configuration may name another one, which a budget is counted for."""
    said, processor = [], make_processor()
    monkeypatch.setattr(module.logger, "warning_once", said.append)
    assert picture_size(processor) == (IMAGE_SIZE, IMAGE_SIZE)
    config = llava_config()
    config.pitome = {"flops_ratio": 1.5}
    assert tokens_of_a_picture(processor, config) == num_image_tokens(config) and not said
    config.vision_config.image_size = 2 * IMAGE_SIZE
    assert tokens_of_a_picture(processor, config) == num_image_tokens(config, IMAGE_SIZE) < num_image_tokens(config)
    (message,) = said
    assert f"pictures of {IMAGE_SIZE} x {IMAGE_SIZE} pixels" in message and f"counted for {2 * IMAGE_SIZE}" in message
    for settings in ({"ratio": 0.8}, {"parts": {"vision": 0.8}}):
        config.pitome = settings
        assert tokens_of_a_picture(processor, config) == num_image_tokens(config, IMAGE_SIZE) and len(said) == 1
