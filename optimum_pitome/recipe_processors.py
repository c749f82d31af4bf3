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

"""Tokenizers and processors of recipes: a recipe has none of its own, so the auto classes take those of its model.

`AutoTokenizer` and `AutoProcessor` have a register for that. `AutoImageProcessor` asks for `preprocessor_config.json`
before it looks at the configuration, so it is asked again, for the model that the recipe names.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from transformers import PreTrainedConfig

from .configuration import PiToMeConfig


#: Arguments that speak of the recipe's repository, and those that say how to reach a repository.
_RECIPE_ARGUMENTS = ("revision", "subfolder", "code_revision", "config", "_commit_hash")
_HUB_ARGUMENTS = ("revision", "subfolder", "cache_dir", "token", "local_files_only", "force_download", "proxies")


def base_of_recipe(pretrained_model_name_or_path: Any, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The model that a recipe names, and the arguments that go with it; `None` for what is not a recipe.

    Raises:
        ValueError: if the recipe names no model, or itself.
    """
    from .recipes import base_model_of

    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
    try:
        settings, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
    except OSError:
        return None
    if settings.get("model_type") != PiToMeConfig.model_type:
        return None
    base = base_model_of(PiToMeConfig.from_dict(settings), str(pretrained_model_name_or_path))
    return base, {name: value for name, value in kwargs.items() if name not in _RECIPE_ARGUMENTS}


def register_tokenization(tokenization_auto: ModuleType) -> None:
    tokenization_auto.AutoTokenizer.register(PiToMeConfig, RecipeTokenizer, exist_ok=True)


def register_processing(processing_auto: ModuleType) -> None:
    processing_auto.AutoProcessor.register(PiToMeConfig, RecipeProcessor, exist_ok=True)


def register_image_processing(image_processing_auto: ModuleType) -> None:
    auto_class = image_processing_auto.AutoImageProcessor
    original = vars(auto_class)["from_pretrained"].__func__
    if getattr(original, "_pitome", False):
        return

    @functools.wraps(original)
    def from_pretrained(cls, pretrained_model_name_or_path, *inputs, **kwargs):
        try:
            return original(cls, pretrained_model_name_or_path, *inputs, **kwargs)
        except (OSError, ValueError):
            base = base_of_recipe(pretrained_model_name_or_path, kwargs)
            if base is None:
                raise
        return cls.from_pretrained(base[0], *inputs, **base[1])

    from_pretrained._pitome = True
    auto_class.from_pretrained = classmethod(from_pretrained)


class RecipeTokenizer:
    """What `AutoTokenizer` finds for a recipe: loads the tokenizer of its model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *inputs, **kwargs):
        from transformers import AutoTokenizer

        base, kwargs = base_of_recipe(pretrained_model_name_or_path, kwargs)
        return AutoTokenizer.from_pretrained(base, *inputs, **kwargs)


class RecipeProcessor:
    """What `AutoProcessor` finds for a recipe: loads the processor of its model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        from transformers import AutoProcessor

        base, kwargs = base_of_recipe(pretrained_model_name_or_path, kwargs)
        return AutoProcessor.from_pretrained(base, **kwargs)
