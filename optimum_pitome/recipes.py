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

from typing import Any

from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from .configuration import PiToMeConfig


#: Arguments of `from_pretrained` that speak of the recipe's repository, not of the model it names.
_RECIPE_ARGUMENTS = ("revision", "subfolder", "code_revision", "_from_auto", "_commit_hash", "adapter_kwargs")


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
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, pitome=None, **kwargs):
        """Loads the model that the recipe names, rewritten as the recipe (or `pitome`, if given) says.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Hub id or folder of the recipe.
            config ([`PiToMeConfig`], *optional*): the recipe, if it is read already.
            pitome (*optional*): settings that replace the recipe's; `False` for the dense model.
            kwargs: passed on to the auto class; `revision` and `subfolder` select the recipe, not the model.

        Raises:
            ValueError: if the recipe names no model, or itself.
        """
        if config is None:
            selection = {name: kwargs[name] for name in ("revision", "subfolder") if name in kwargs}
            hub = {name: kwargs[name] for name in ("cache_dir", "token", "local_files_only") if name in kwargs}
            config = PiToMeConfig.from_pretrained(pretrained_model_name_or_path, **selection, **hub)
        base = base_model_of(config, str(pretrained_model_name_or_path))
        kwargs = {name: value for name, value in kwargs.items() if name not in _RECIPE_ARGUMENTS}
        settings = config if pitome is None else pitome
        return cls._auto_class().from_pretrained(base, *model_args, pitome=settings, **kwargs)

    @classmethod
    def _from_config(cls, config, pitome=None, **kwargs):
        base_config = AutoConfig.from_pretrained(base_model_of(config, config.name_or_path))
        return cls._auto_class().from_config(base_config, pitome=config if pitome is None else pitome, **kwargs)

    @classmethod
    def _auto_class(cls) -> type:
        return getattr(modeling_auto, cls._auto_class_name)


def base_model_of(config: PiToMeConfig, recipe: str) -> str:
    """The model that a recipe names.

    Raises:
        ValueError: if it names none, or itself.
    """
    base = config.base_model_name_or_path
    if not base:
        raise ValueError(
            f"The PiToMe recipe {recipe!r} names no model. Set base_model_name_or_path to a Hub id or a folder: "
            'PiToMeConfig(ratio=0.9, base_model_name_or_path="google/vit-base-patch16-224").'
        )
    if base == recipe:
        raise ValueError(f"The PiToMe recipe {recipe!r} names itself as base_model_name_or_path.")
    return base


def _make_variants() -> dict[str, type[PiToMeModel]]:
    """One class per auto class of this transformers; nobody ever holds an instance, so nothing needs to pickle."""
    variants = {}
    for name in dir(modeling_auto):
        auto_class = getattr(modeling_auto, name)
        if name.startswith("Auto") and getattr(auto_class, "_model_mapping", None) is not None:
            suffix = name.removeprefix("AutoModel") if name.startswith("AutoModel") else name.removeprefix("Auto")
            variant = f"PiToMe{suffix or 'Model'}"
            variants[variant] = (
                PiToMeModel if not suffix else type(variant, (PiToMeModel,), {"_auto_class_name": name})
            )
            auto_class.register(PiToMeConfig, variants[variant], exist_ok=True)
    return variants


VARIANTS = _make_variants()
