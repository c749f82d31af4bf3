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

"""LLaVA and VipLLaVA in vLLM: the prompt is the short one, and the tokens are those of `generate`."""

import pytest
from integrations.vllm_engine.models import (
    PITOME,
    PROMPTS,
    answers,
    prompt_tokens,
    run_engine,
    save_llava,
    save_vipllava,
)
from transformers import AutoConfig
from zoo.llava import NUM_PATCHES

from optimum_pitome import num_image_tokens


def tokens_of(outputs):
    return [output["tokens"] for output in outputs]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A checkpoint that knows nothing of this package."""
    return save_llava(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A checkpoint whose configuration says how it merges."""
    return save_llava(tmp_path_factory.mktemp("merged"), pitome={"ratio": 0.7, "layers": [0, 2]})


def short(folder, pitome=None):
    config = AutoConfig.from_pretrained(folder)
    config.pitome = pitome or config.pitome
    return num_image_tokens(config)


@pytest.mark.parametrize("model_impl", ["auto", "transformers"])
def test_an_override_makes_a_dense_checkpoint_merge(dense, model_impl):
    """A batch of mixed prompts, and then the same prompts from the prefix cache."""
    rounds = [PROMPTS, PROMPTS]
    overrides = {"pitome": PITOME}
    (first, again), _ = run_engine(dense, rounds, model_impl=model_impl, hf_overrides=overrides, block_size=32)
    expected = answers(dense, pitome=PITOME)
    assert expected != answers(dense)
    assert tokens_of(first) == expected
    assert [output["prompt"] for output in first] == prompt_tokens(short(dense, PITOME))
    assert tokens_of(again) == expected
    assert all(output["cached"] >= 32 for output in again if output["prompt"] > 64)


@pytest.mark.parametrize("model_impl", ["auto", "transformers"])
def test_a_checkpoint_that_merges(merged, model_impl):
    (found,), _ = run_engine(merged, model_impl=model_impl)
    assert tokens_of(found) == answers(merged)
    assert [output["prompt"] for output in found] == prompt_tokens(short(merged))


@pytest.mark.parametrize("model_impl", ["auto", "transformers"])
def test_null_is_the_dense_model(merged, model_impl):
    (found,), _ = run_engine(merged, model_impl=model_impl, hf_overrides={"pitome": None})
    assert tokens_of(found) == answers(merged, pitome=None)
    assert [output["prompt"] for output in found] == prompt_tokens(NUM_PATCHES)


def test_vipllava(tmp_path):
    folder = save_vipllava(tmp_path)
    (found,), _ = run_engine(folder, hf_overrides={"pitome": PITOME})
    assert tokens_of(found) == answers(folder, pitome=PITOME)
    assert [output["prompt"] for output in found] == prompt_tokens(short(folder, PITOME))
