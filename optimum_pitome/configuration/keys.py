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

"""Keys beside settings that are none of this package's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


#: Keys that transformers writes into every configuration. They carry nothing about merging.
TRANSFORMERS_KEYS = frozenset(
    "_attn_implementation_autoset _commit_hash _name_or_path architectures chunk_size_feed_forward id2label "
    "is_encoder_decoder label2id model_type name_or_path output_attentions output_hidden_states problem_type "
    "return_dict transformers_version".split()
)
#: Others of them, of which somebody who writes them beside a ratio expects something.
LOADING_KEYS = frozenset({"attn_implementation", "dtype", "torch_dtype"})


def without_foreign_keys(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """`settings` without what transformers wrote among them."""
    dropped = TRANSFORMERS_KEYS | {key for key in LOADING_KEYS if settings.get(key) is None}
    return {key: value for key, value in settings.items() if key not in dropped}
