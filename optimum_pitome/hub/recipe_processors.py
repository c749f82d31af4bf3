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

from types import ModuleType
from typing import Any

from ..configuration.config import PiToMeConfig
from ..modeling.wrap import wrap
from .recipe_lookup import find_recipe, following, read_recipe


def load_of_base_model(
    auto_class: Any, config: PiToMeConfig, recipe: Any, inputs: tuple, arguments: dict[str, Any]
) -> Any:
    """What `auto_class` finds for the model that a recipe names."""
    with following(config, recipe, arguments) as (base, arguments):
        if isinstance(arguments.get("config"), PiToMeConfig):
            del arguments["config"]
        return auto_class.from_pretrained(base, *inputs, **arguments)


def register_tokenization(tokenization_auto: ModuleType) -> None:
    tokenization_auto.AutoTokenizer.register(PiToMeConfig, RecipeTokenizer, exist_ok=True)


def register_processing(processing_auto: ModuleType) -> None:
    processing_auto.AutoProcessor.register(PiToMeConfig, RecipeProcessor, exist_ok=True)


def register_image_processing(image_processing_auto: ModuleType) -> None:

    def make(original):
        def from_pretrained(cls, pretrained_model_name_or_path, *inputs, **kwargs):
            try:
                return original(cls, pretrained_model_name_or_path, *inputs, **kwargs)
            except (OSError, ValueError):
                recipe = find_recipe(pretrained_model_name_or_path, kwargs)
                if recipe is None:
                    raise
            return load_of_base_model(cls, recipe, pretrained_model_name_or_path, inputs, kwargs)

        return from_pretrained

    wrap(image_processing_auto.AutoImageProcessor, "from_pretrained", make)


class RecipeTokenizer:
    """What `AutoTokenizer` finds for a recipe: loads the tokenizer of its model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *inputs, **kwargs):
        from transformers import AutoTokenizer

        recipe = read_recipe(pretrained_model_name_or_path, kwargs)
        return load_of_base_model(AutoTokenizer, recipe, pretrained_model_name_or_path, inputs, kwargs)


class RecipeProcessor:
    """What `AutoProcessor` finds for a recipe: loads the processor of its model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        from transformers import AutoProcessor

        recipe = read_recipe(pretrained_model_name_or_path, kwargs)
        return load_of_base_model(AutoProcessor, recipe, pretrained_model_name_or_path, (), kwargs)
