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

"""Text encoders."""

import torch
import transformers
from transformers import (
    BertConfig,
    CamembertConfig,
    Data2VecTextConfig,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    MPNetConfig,
    RobertaConfig,
    RobertaPreLayerNormConfig,
    XLMRobertaConfig,
    XLMRobertaXLConfig,
)

from zoo import Case


VOCAB_SIZE = 99
CLS, SEP, PAD = 5, 6, 1

SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "type_vocab_size": 2,
    "pad_token_id": PAD,
    "bos_token_id": CLS,
    "eos_token_id": SEP,
    "num_labels": 3,
}


def text_inputs(batch_size: int, lengths=(24, 13, 19), num_tokens: int = 24) -> dict[str, torch.Tensor]:
    """Sentences of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(7, VOCAB_SIZE, (batch_size, num_tokens), generator=generator)
    ends = torch.tensor([lengths[i % len(lengths)] for i in range(batch_size)]).unsqueeze(1)
    position = torch.arange(num_tokens)
    ids = ids.masked_fill(position == 0, CLS).masked_fill(position == ends - 1, SEP)
    mask = (position < ends).long()
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


def pair_inputs(batch_size: int) -> dict[str, torch.Tensor]:
    inputs = text_inputs(batch_size)
    position = torch.arange(inputs["input_ids"].shape[1])
    inputs["input_ids"][:, 8] = SEP
    inputs["token_type_ids"] = (position > 8).long() * inputs["attention_mask"]
    return inputs


def choice_inputs(batch_size: int) -> dict[str, torch.Tensor]:
    return {name: value.unflatten(0, (batch_size, 2)) for name, value in text_inputs(2 * batch_size).items()}


def bert_config():
    return BertConfig(**SIZES)


def small_chunks_config():
    return BertConfig(**SIZES, chunk_size_feed_forward=1)


def electra_config():
    return ElectraConfig(**SIZES, embedding_size=16)


def ernie_config():
    return ErnieConfig(**SIZES, use_task_id=True)


def distilbert_config():
    names = {"hidden_size": "dim", "intermediate_size": "hidden_dim"}
    names |= {"num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    sizes = {names.get(name, name): value for name, value in SIZES.items() if name != "type_vocab_size"}
    return DistilBertConfig(**sizes)


def of(config_class):
    return lambda: config_class(**SIZES)


_HEADS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")

_EVERY_TOKEN = ("ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "ForPreTraining")

_CONFIGS = {
    "Bert": bert_config,
    "DistilBert": distilbert_config,
    "Electra": electra_config,
    "Ernie": ernie_config,
    "Roberta": of(RobertaConfig),
    "XLMRoberta": of(XLMRobertaConfig),
    "XLMRobertaXL": of(XLMRobertaXLConfig),
    "Camembert": of(CamembertConfig),
    "Data2VecText": of(Data2VecTextConfig),
    "RobertaPreLayerNorm": of(RobertaPreLayerNormConfig),
    "MPNet": of(MPNetConfig),
}


def _spans(config):
    """Start and end: the two labels of question answering."""

    def make():
        made = config()
        made.num_labels = 2
        return made

    return make


#: MPNet attends in its own code.
_EAGER = ("MPNet",)


#: Their models are built without the pooler that they read, before that release.
_BROKEN = ("XLMRobertaForMultipleChoice", "CamembertForMultipleChoice")


def _case(name: str, head: str, config, inputs=text_inputs) -> Case:
    config = _spans(config) if head == "ForQuestionAnswering" else config
    since = "5.14.0" if name + head in _BROKEN else "5.0"
    model_class = getattr(transformers, name + head)
    whole = head in _EVERY_TOKEN
    return Case(model_class, config, inputs, eager_only=name in _EAGER, runs_since=since, reads_every_token=whole)


CASES = [_case(name, head, config) for name, config in _CONFIGS.items() for head in _HEADS]
CASES += [_case(name, "ForMultipleChoice", config, choice_inputs) for name, config in _CONFIGS.items()]
CASES += [
    _case("Bert", "ForPreTraining", bert_config),
    _case("Bert", "ForNextSentencePrediction", small_chunks_config, pair_inputs),
    _case("Electra", "ForPreTraining", electra_config),
]
