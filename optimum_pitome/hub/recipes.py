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

"""Recipes: repositories with a [`PiToMeConfig`] and no weights, loaded through the ordinary auto classes.

`AutoModelForImageClassification.from_pretrained("me/vit-pitome")` reads the recipe, loads the model that it names, and
rewrites it. What comes back is an instance of the ordinary class, never of the classes here.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from transformers import AutoConfig

from ..configuration.config import PiToMeConfig
from .recipe_lookup import following, load_base_model, read_recipe


_MODELING_AUTO = "transformers.models.auto.modeling_auto"


class PiToMeModel:
    """Loads what a recipe names, with `AutoModel`. The task variants (`PiToMeForImageClassification`, ...) do the same
    with their auto class."""

    config_class = PiToMeConfig
    _auto_class_name = "AutoModel"

    def __init__(self, *args: Any, **kwargs: Any):
        raise TypeError(
            f"{type(self).__name__} is not a model: it loads one. Use {type(self).__name__}.from_pretrained(recipe), "
            "or AutoModel.from_pretrained(recipe)."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Loads the model that the recipe names, rewritten as the recipe says.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Hub id or folder of the recipe.
            config ([`PiToMeConfig`] or `PreTrainedConfig`, *optional*): the recipe, if it is read already, or the
                configuration of the model.
            kwargs: `revision` and `subfolder` select the recipe, and its fields (`ratio=0.8`) replace those that it
                has. `pitome=` replaces the whole of it; `False` or `None` for the dense model. Everything else is
                passed on to the auto class, for the model that the recipe names.

        Raises:
            ValueError: if it is no recipe, or if it leads to no model.
        """
        recipe = config
        if not isinstance(config, PiToMeConfig):
            recipe = read_recipe(pretrained_model_name_or_path, kwargs)
            kwargs["config"] = config
        load = cls._auto_class().from_pretrained
        return load_base_model(load, recipe, pretrained_model_name_or_path, model_args, kwargs)

    @classmethod
    def _from_config(cls, config, **kwargs):
        meant = dict(config.model_arguments)
        kwargs.setdefault("pitome", meant.pop("pitome", config))
        with following(config, config.name_or_path or "PiToMeConfig(...)", {}) as (base, _):
            return cls._auto_class().from_config(AutoConfig.from_pretrained(base, **meant), **kwargs)

    @classmethod
    def _auto_class(cls) -> type:
        return getattr(importlib.import_module(_MODELING_AUTO), cls._auto_class_name)


_variants: dict[str, type[PiToMeModel]] = {}


def register(modeling_auto: ModuleType) -> None:
    """Registers one class per auto class of this transformers; called when their module has been imported."""
    for name in dir(modeling_auto):
        auto_class = getattr(modeling_auto, name)
        if name.startswith("Auto") and getattr(auto_class, "_model_mapping", None) is not None:
            suffix = name.removeprefix("AutoModel") if name.startswith("AutoModel") else name.removeprefix("Auto")
            variant = f"PiToMe{suffix or 'Model'}"
            if variant not in _variants:
                # Nobody ever holds an instance, so nothing needs to pickle.
                attributes = {"_auto_class_name": name, "__module__": __name__}
                _variants[variant] = type(variant, (PiToMeModel,), attributes) if suffix else PiToMeModel
            auto_class.register(PiToMeConfig, _variants[variant], exist_ok=True)


def variant(name: str) -> type[PiToMeModel] | None:
    """The class of that name, such as `PiToMeForImageClassification`; `None` if no auto class has such a task."""
    importlib.import_module(_MODELING_AUTO)  # the import hook registers
    return _variants.get(name)
