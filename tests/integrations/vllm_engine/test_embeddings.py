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

"""Embedding models in vLLM: CLIP and SigLIP merge in their tower, texts stay dense with one warning."""

import pytest
import torch
from integrations.vllm_engine.models import PITOME, embeddings, run_engine, save_bert, save_clip, save_siglip


PROMPTS = [("", [0]), ("w10 w11 w12", []), ("", [1]), ("", [2])]


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_the_tower_merges(tmp_path, save):
    folder = save(tmp_path)
    (found,), _ = run_engine(folder, [PROMPTS], runner="pooling", max_model_len=32, hf_overrides={"pitome": PITOME})
    expected = embeddings(folder, PROMPTS, pitome=PITOME)
    assert (expected - embeddings(folder, PROMPTS)).abs().max() > 1e-3
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=0)


def test_text_encoders_stay_dense(tmp_path):
    """vLLM packs texts into one row. Its own class would ignore the settings; its Transformers backend would merge."""
    folder = save_bert(tmp_path)
    prompts = [[("w10 w11 w12 w13", []), ("w20 w21", [])]]
    settings = {"runner": "pooling", "max_model_len": 32, "model_impl": "transformers"}
    dense, _ = run_engine(folder, prompts, **settings)
    found, log = run_engine(folder, prompts, **settings, hf_overrides={"pitome": PITOME})
    assert found == dense
    assert log.count("bert is served dense, and its `pitome` settings are ignored") == 1
