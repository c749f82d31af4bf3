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

"""Text encoders with rotary embeddings, two of them on the newest transformers only."""

import transformers
from transformers import EuroBertConfig, JinaEmbeddingsV3Config, ModernBertConfig, NomicBertConfig

from zoo import Case
from zoo.text import CLS, PAD, SEP, SIZES, text_inputs


TINY = {**SIZES, "num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48}
_NO_TYPES = {name: value for name, value in TINY.items() if name != "type_vocab_size"}


def of(config_class, sizes=TINY, **settings):
    return lambda: config_class(**sizes, **settings)


def eurobert_config():
    return EuroBertConfig(**_NO_TYPES, num_key_value_heads=1, mask_token_id=4)


def modernbert_config():
    """A global layer between two local ones, whose windows are shorter than the texts."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    ids = {"cls_token_id": CLS, "sep_token_id": SEP, "pad_token_id": PAD}
    return ModernBertConfig(**{**_NO_TYPES, **ids}, local_attention=8, layer_types=layers)


_CONFIGS = {
    "NomicBert": of(NomicBertConfig),
    "JinaEmbeddingsV3": of(JinaEmbeddingsV3Config),
    "EuroBert": eurobert_config,
    "ModernBert": modernbert_config,
}
if hasattr(transformers, "GteConfig"):
    _CONFIGS["Gte"] = of(transformers.GteConfig)

_EVERY_TOKEN = ("ForTokenClassification", "ForMaskedLM")
#: Other heads read the same outputs as those of `zoo.text`.
_HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM")

CASES = [
    Case(
        getattr(transformers, name + head),
        config,
        text_inputs,
        reads_every_token=head in _EVERY_TOKEN or name + head == "EuroBertForSequenceClassification",
    )
    for name, config in _CONFIGS.items()
    for head in _HEADS
]
