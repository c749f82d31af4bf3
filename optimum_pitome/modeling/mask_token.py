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

"""The mask token of models that predict masked tokens. Their configurations do not name it (unless somebody wrote
`mask_token_id` there); the tokenizer beside the weights does."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoTokenizer
from transformers.utils import logging

from .beside import read_beside


logger = logging.get_logger(__name__)

#: A folder without any of them has no tokenizer. (From its config.json alone `AutoTokenizer` would make an empty one.)
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")


def find_mask_token(modules: list[nn.Module], named: bool, **hub: Any) -> int | None:
    """The id of the mask token, if one of `modules` predicts masked tokens and its tokenizer is found.

    Args:
        modules (`list[torch.nn.Module]`): of any model.
        named (`bool`): the user named tokens to protect, so that nothing has to be said if none is found.
        hub: where to look for the tokenizer: `token`, `cache_dir` and `local_files_only` of `from_pretrained`.
    """
    classes = {module_class for module_class in set(map(type, modules)) if _may_predict(module_class)}
    for module in modules:
        if type(module) in classes and predicts_masked_tokens(module):
            found = _mask_token_beside(module, hub)
            if found is None and not named:
                logger.warning_once(
                    f"{type(module).__name__} predicts masked tokens, but no tokenizer was found beside its weights "
                    "to name the mask token, so masks may merge with other tokens. Name it: PiToMeConfig(..., "
                    "protect_token_ids=[tokenizer.mask_token_id])."
                )
            return found
    return None


def _may_predict(module_class: type[nn.Module]) -> bool:
    return any(base.__name__.endswith(("ForMaskedLM", "ForPreTraining")) for base in module_class.__mro__)


def predicts_masked_tokens(module: nn.Module) -> bool:
    names = [base.__name__ for base in type(module).__mro__]
    if any(name.endswith("ForMaskedLM") for name in names):
        return True
    # ELECTRA's sees no masks: it tells real tokens from others, and has no output embeddings.
    return any(name.endswith("ForPreTraining") for name in names) and module.get_output_embeddings() is not None


def _mask_token_beside(model: nn.Module, hub: dict[str, Any]) -> int | None:
    written = getattr(model.config, "mask_token_id", None)
    if isinstance(written, int):
        return written
    found = read_beside(model.config, "tokenizer", _TOKENIZER_FILES, _mask_token, **hub)
    return None if found is None or not 0 <= found < model.config.vocab_size else found


def _mask_token(name: str, **options: Any) -> int | None:
    return AutoTokenizer.from_pretrained(name, **options).mask_token_id
