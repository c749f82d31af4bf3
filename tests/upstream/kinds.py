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
"""What may differ once tokens merge, and what is not run at all. Both are lists of kinds, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """Failures that merging brings with it.

    Attributes:
        tests (`str`): regular expression for all of `family::name of the test`, without the brackets of parameters.
        message (`str`): regular expression that must be found in the message of the failure.
        reason (`str`): why this says nothing against the package.
    """

    tests: str
    message: str
    reason: str


#: Only where tokens really merged: at ratio 1 nothing may differ.
ALLOWED = (
    Kind(
        r".*::test_eager_matches_sdpa_inference_\d+_(bf16|fp16)_.*",
        r"mean relative difference",
        "the kernels round differently, and in half precision that may merge another of two nearly equal pairs",
    ),
    Kind(
        r"(gte|nomic_bert|jina_embeddings_v3|eurobert)::test_eager_matches_sdpa_inference_\d+_fp32_.*",
        r"mean relative difference",
        "the suite fills its batch with five token ids. Where rotations are the only positions, equal tokens are "
        "nearly alike, and the last bit says which of them merge (of other ids, both implementations merge the same)",
    ),
    Kind(
        r".*::test_(attention_outputs|get_image_features_attentions)",
        r"AssertionError: Lists differ",
        "attentions have the shapes of the shortened sequence",
    ),
    Kind(
        r"(vip)?llava::test_hidden_states_output",
        r"AssertionError: Lists differ",
        "the prompt of a LLaVA gets as short as its image tokens",
    ),
    Kind(
        r"(vip)?llava.*::test_get_image_features_(attentions|hidden_states)",
        r"Number of attention layers mismatch|'shape' do not match",
        "layers of the tower after those that are read are not run",
    ),
)

#: Test → why it is not run, neither dense nor rewritten.
LEFT_OUT = {
    r"test_.*flash.*": "they need a GPU",
    r"test_num_layers_is_small|test_model_is_small": "they look at the tester, and ours have four layers",
    r"test_generation_tester_mixin_inheritance": "it looks at the test case",
}


def allowed(family: str, test: str, message: str) -> Kind | None:
    """The kind that a failure is of, if merging is allowed to fail so."""
    name = test.partition("[")[0]
    for kind in ALLOWED:
        if re.fullmatch(kind.tests, f"{family}::{name}") and re.search(kind.message, message):
            return kind
    return None


def left_out(test: str) -> bool:
    return any(re.fullmatch(pattern, test.partition("[")[0]) for pattern in LEFT_OUT)
