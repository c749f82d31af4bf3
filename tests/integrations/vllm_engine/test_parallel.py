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

"""Tensor parallelism: right with vLLM's own class, refused with its Transformers backend."""

import pytest
from integrations.vllm_engine.models import PITOME, answers, run_engine, save_llava


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("dense"))


def test_two_processes_say_what_one_says(dense):
    (found,), _ = run_engine(dense, tensor_parallel_size=2, hf_overrides={"pitome": PITOME})
    assert [output["tokens"] for output in found] == answers(dense, pitome=PITOME)


def test_the_transformers_backend_refuses(dense):
    with pytest.raises(
        AssertionError, match="tensor_parallel_size=2 with merging: vLLM's Transformers backend divides"
    ):
        run_engine(dense, tensor_parallel_size=2, model_impl="transformers", hf_overrides={"pitome": PITOME})
