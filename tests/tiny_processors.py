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

"""Processors for the tiny models of the zoo, made of nothing: a word-level tokenizer and 32-pixel pictures."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BlipImageProcessor, CLIPImageProcessor, PreTrainedTokenizerFast


WORDS = "a photo of cat dog what is this red blue frog the sign for letter yes no how many in picture".split()


def tokenizer(kind: str = "bert") -> PreTrainedTokenizerFast:
    """Sixty tokens, numbered as the tiny configurations expect: pad 0, bos 57, eos 58, image 59."""
    names = ["[PAD]", "[UNK]", "[CLS]", *WORDS]
    names += [f"[unused{i}]" for i in range(57 - len(names))] + ["[BOS]", "[EOS]", "<image>"]
    ids = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[EOS]", ids["[EOS]"]), ("[BOS]", ids["[BOS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=16,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[EOS]",
        bos_token="[BOS]",
        eos_token="[EOS]",
    )


def image_processor(kind=CLIPImageProcessor):
    if kind is BlipImageProcessor:
        return kind(size={"height": 32, "width": 32})
    return kind(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
