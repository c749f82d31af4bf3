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

"""The model that a recipe names, and the arguments that are meant for it: all but those that select the recipe's files
or are fields of the recipe.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import is_peft_available, logging

from ..configuration.config import PiToMeConfig


logger = logging.get_logger(__name__)

#: Arguments that select the recipe's files, that say how to reach any repository, and that the auto classes add.
_SELECTION = ("revision", "subfolder")
_HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
_ADDED = ("_commit_hash", "_from_auto")

#: How many recipes may name one another. Names do not show a circle, since a folder can be spelt in many ways.
MAX_RECIPES = 8

#: The recipes that are being followed, outermost first, as (name, revision, subfolder).
_followed: ContextVar[tuple[tuple[str, str, str], ...]] = ContextVar("pitome_recipes", default=())


def read_recipe(name: Any, arguments: dict[str, Any]) -> PiToMeConfig:
    """The recipe in a folder or a repository; of `arguments`, those count that say where it is and how to get there.

    Raises:
        OSError: if there is no `config.json`.
        ValueError: if it is no recipe.
    """
    settings = _read_settings(name, arguments)
    if settings.get("model_type") != PiToMeConfig.model_type:
        raise ValueError(
            f"{str(name)!r} is no PiToMe recipe: the model_type in its config.json is {settings.get('model_type')!r}, "
            f"not {PiToMeConfig.model_type!r}. What has weights loads with an auto class and pitome=0.9."
        )
    return PiToMeConfig.from_dict(settings, name_or_path=str(name))


def find_recipe(name: Any, arguments: dict[str, Any]) -> PiToMeConfig | None:
    """As [`read_recipe`], but `None` for what is no recipe or cannot be read: the caller has an error of its own."""
    if name is None:
        return None
    try:
        settings = _read_settings(name, arguments)
        if settings.get("model_type") != PiToMeConfig.model_type:
            return None
    except Exception:
        return None
    return PiToMeConfig.from_dict(settings, name_or_path=str(name))


def explain_recipe(config: PiToMeConfig, recipe: Any, class_name: str) -> None:
    """Says why a class of transformers loads another model than the one it was asked for."""
    logger.warning_once(
        f"{str(recipe)!r} is a PiToMe recipe, so {class_name} loads the model that it names: "
        f"{config.base_model_name_or_path!r}. The auto classes do this without a warning about the type of the model."
    )


def _read_settings(name: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    selected = {key: arguments[key] for key in (*_SELECTION, *_HUB) if key in arguments}
    return PreTrainedConfig.get_config_dict(name, **selected)[0]


def base_model_of(config: PiToMeConfig, recipe: str) -> str:
    """The model that a recipe names.

    Raises:
        ValueError: if it names none.
    """
    if not config.base_model_name_or_path:
        raise ValueError(
            f"The PiToMe recipe {recipe!r} names no model. Set base_model_name_or_path to a Hub id or a folder: "
            'PiToMeConfig(ratio=0.9, base_model_name_or_path="google/vit-base-patch16-224").'
        )
    return config.base_model_name_or_path


@contextlib.contextmanager
def following(config: PiToMeConfig, recipe: Any, arguments: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The model that a recipe names, and the arguments that are meant for it. What is loaded within may be a recipe
    again, but none that is being followed.

    Raises:
        ValueError: if it names no model, or if the recipes lead back to one of them.
        OSError: if what it names cannot be loaded.
    """
    base = base_model_of(config, str(recipe))
    step = (str(recipe), str(arguments.get("revision") or "main"), arguments.get("subfolder") or "")
    chain, next_step = (*_followed.get(), step), (base, "main", "")
    if next_step in chain or len(chain) > MAX_RECIPES:
        names = " -> ".join(_describe(*each) for each in (*chain, next_step))
        fault = "never come to a model" if next_step in chain else f"are more than {MAX_RECIPES}"
        raise ValueError(
            f"PiToMe recipes that name each other {fault}: {names}. Set base_model_name_or_path of one of them to the "
            "Hub id or the folder of a model."
        )
    token = _followed.set(chain)
    try:
        yield base, {key: value for key, value in arguments.items() if key not in (*_SELECTION, *_ADDED)}
    except OSError as error:
        raise OSError(
            f"The PiToMe recipe {str(recipe)!r} names {base!r}, which did not load: {_where(base)}{error}"
        ) from error
    finally:
        _followed.reset(token)


def base_config_of(config: PiToMeConfig, recipe: str) -> PreTrainedConfig:
    """The configuration of the model that a recipe names.

    Raises:
        ValueError, OSError: as [`following`].
    """
    with following(config, recipe, {}) as (base, _):
        return AutoConfig.from_pretrained(base)


def _where(base: str) -> str:
    """What to do about a name that leads to no folder here, and may have been meant as one."""
    if os.path.exists(base) or os.path.isabs(base):
        return ""
    return (
        f"there is no such folder in {os.getcwd()}. If it is a folder, run this where the recipe was made, or write "
        "its absolute path into the recipe's config.json (base_model_name_or_path). As a name on the Hub: "
    )


def _describe(name: str, revision: str, subfolder: str) -> str:
    return name + (f"@{revision}" if revision != "main" else "") + (f"/{subfolder}" if subfolder else "")


def load_base_model(
    load: Callable[..., Any], config: PiToMeConfig, recipe: Any, model_args: tuple, arguments: dict[str, Any]
) -> Any:
    """Loads the model that a recipe names, rewritten, with `load`, the `from_pretrained` of a class."""
    arguments = dict(arguments)
    if isinstance(arguments.get("config"), PiToMeConfig):
        config = arguments.pop("config")
    meant = dict(config.model_arguments)
    about = {"return_unused_kwargs": True, "name_or_path": str(recipe)}
    changed, arguments = PiToMeConfig.from_dict(config.to_pitome_dict(), **about, **arguments)
    config = config if changed == config else changed
    arguments.setdefault("pitome", meant.pop("pitome", config))
    adapter, adapter_kwargs = _take_adapter(recipe, arguments)
    with following(config, recipe, arguments) as (base, arguments):
        if meant and not isinstance(arguments.get("config"), PreTrainedConfig):
            reach = {key: arguments[key] for key in (*_HUB, "trust_remote_code") if key in arguments}
            arguments["config"] = AutoConfig.from_pretrained(base, **reach, **meant)
        loaded = load(base, *model_args, **arguments)
    if adapter is None:
        return loaded
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    name = arguments.get("adapter_name", "default")
    info = model.load_adapter(adapter, adapter_name=name, adapter_kwargs=adapter_kwargs)
    return (model, info.to_dict()) if isinstance(loaded, tuple) else model


def _take_adapter(recipe: Any, arguments: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The PEFT adapter that lies beside the recipe or that names it, and how to load it; `None` if there is none."""
    adapter_kwargs = dict(arguments.pop("adapter_kwargs", None) or {})
    # The auto classes have looked for an adapter, of the same revision, before they knew that this is a recipe.
    adapter = adapter_kwargs.pop("_adapter_model_path", None)
    if adapter is None and is_peft_available() and os.path.isfile(os.path.join(str(recipe), "adapter_config.json")):
        adapter = recipe
    if adapter is not None:
        return str(adapter), adapter_kwargs
    if adapter_kwargs.get("revision") == arguments.get("revision"):
        adapter_kwargs.pop("revision", None)
    if adapter_kwargs:
        arguments["adapter_kwargs"] = adapter_kwargs
    return None, {}
