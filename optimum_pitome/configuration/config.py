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

"""[`PiToMeConfig`]: everything a user can set about merging, validated, as a transformers configuration."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import marshal
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig
from transformers.utils import logging

from .checks import BUDGETS, FORMAT_VERSION, Setting, check_budget, check_version, is_number, show
from .fields import FIELDS, Settings, fields_of, unknown_field_message
from .keys import LOADING_KEYS, TRANSFORMERS_KEYS
from .sources import about_part, settings_are


logger = logging.get_logger(__name__)

#: Keys that transformers writes into, or passes through, every configuration.
_BASE_KEYS = TRANSFORMERS_KEYS | LOADING_KEYS | {field.name for field in dataclasses.fields(PreTrainedConfig)}
#: What transformers puts into every configuration. To make it anew each time would take longer than all the rest.
_UNTOUCHED = vars(PreTrainedConfig())


def _seal(fields: Mapping[str, Any]) -> bytes | None:
    """Bytes that differ where a field does, be it only in its type; `None` if one is no plain data."""
    try:
        return marshal.dumps([fields.get(name) for name in FIELDS], 2)  # later versions depend on who else holds what
    except ValueError:
        return None


def _holds_recipe(value: Any) -> bool:
    """Whether `value` names a folder with a recipe."""
    try:
        found = json.loads((Path(value) / "config.json").read_text(encoding="utf-8"))
    except (OSError, RecursionError, TypeError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == PiToMeConfig.model_type


class PiToMeConfig(PreTrainedConfig, Settings):
    """How a model merges its tokens.

    [`Settings`] declares the fields. Those left at `None` take the value that measured best for the architecture at
    hand (`pitome_summary` shows them).

    Raises:
        ValueError: for an unknown field or a value out of range; the message names what is accepted.
    """

    model_type = "pitome"

    if not TYPE_CHECKING:  # type checkers make the signature of the fields

        @functools.wraps(Settings.__init__, assigned=())
        def __init__(self, /, *args: Any, **kwargs: Any):
            given = vars(Settings(*args, **{name: kwargs.pop(name) for name in FIELDS if name in kwargs}))
            version = given["format_version"]
            newer_minor = check_version(version)
            base = {key: kwargs.pop(key) for key in list(kwargs) if key in _BASE_KEYS}
            unknown = sorted(kwargs)
            if unknown and not newer_minor:
                raise ValueError(unknown_field_message(unknown[0], kwargs[unknown[0]]))
            if unknown:
                logger.warning(
                    f"This PiToMe configuration was written by a newer optimum_pitome (format {version}, this is "
                    f"{FORMAT_VERSION}). Fields unknown here are ignored: {show(unknown)}."
                )
            try:
                untouched = vars(PreTrainedConfig(**base)) if base else _UNTOUCHED
            except Exception as error:
                message = f"transformers refuses {show(base)} in a PiToMeConfig: {show(str(error))}."
                raise ValueError(message) from error
            own = vars(self)  # not by setattr, which is slow in a PreTrainedConfig
            own.update((name, copy.copy(value)) for name, value in untouched.items())
            own.update((name, setting.checked(given[name])) for name, setting in FIELDS.items())
            if all(own[name] is None for name in BUDGETS):
                own["ratio"] = FIELDS["ratio"].usual
            check_budget(own)
            # Arguments of `from_pretrained` that are meant for the model that this recipe names. They are never saved.
            own["model_arguments"] = {}
            own["_origin"] = ""
            own["_checked"] = _seal(own) or b""

    @classmethod
    def paper(cls, ratio: float | list[float] | None = None, **kwargs: Any) -> PiToMeConfig:
        """The paper to the letter: equation 4 over the keys, margin `0.9 - 0.9 i/L`, proportional attention."""
        settings = {"algorithm": "pitome", "energy": "paper", "metric": "keys", "alpha": 1.0, "importance": 0.0}
        return cls(ratio=ratio, **{**settings, "proportional_attention": True, **kwargs})

    @classmethod
    def official(cls, ratio: float | list[float] | None = None, **kwargs: Any) -> PiToMeConfig:
        """What the authors' released code does for the architecture it is applied to (it differs from the paper)."""
        return cls(ratio=ratio, preset="official", **kwargs)

    @classmethod
    def from_value(cls, value: Any) -> PiToMeConfig | None:
        """Normalises what a user may pass as `pitome=`: a config, a dict, a ratio; `None` or `False` give `None`.

        Raises:
            ValueError: for anything else, and for fields out of range.
        """
        if value is None or value is False:
            return None
        if isinstance(value, cls):
            own = vars(value)  # which somebody may have changed since
            unchanged = _seal(own) == own.get("_checked", b"")
            return value if unchanged else cls(**{name: own.get(name) for name in FIELDS})
        if isinstance(value, Mapping):
            return cls(**fields_of(value))
        if is_number(value):
            return cls(ratio=value)
        hint = ""
        if _holds_recipe(value):
            hint = (
                f" {show(str(value))} is the folder of a recipe: load its model from there, without pitome (the auto "
                "classes do that), or pass PiToMeConfig.from_pretrained(that folder)."
            )
        raise ValueError(
            f"pitome={show(value)} is not understood. Pass a ratio (pitome=0.9), a dict (pitome={{'ratio': 0.9}}; "
            "per layer {'ratio': [0.9, ...]}; by part {'vision': 0.9}), a PiToMeConfig, or False for the dense "
            f"model.{hint}"
        )

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> tuple[dict, dict]:
        """As in transformers; of a rewritten model's checkpoint, the `pitome` entry of its `config.json`.

        Raises:
            ValueError: for the checkpoint of a dense model.
        """
        found, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        name = kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))  # as AutoConfig does
        model_type = found.get("model_type")
        if model_type in (None, cls.model_type):
            return found, kwargs
        with settings_are(f"the `pitome` entry in the config.json of {show(name)}"):
            settings = cls.from_value(found.get("pitome"))
        if settings is None:
            raise ValueError(
                f"{show(name)} is a {show(model_type)} model without a `pitome` entry in its config.json, so there "
                "are no settings of merging to read. Load it with pitome=0.9, say, and save it, or write a recipe: "
                "PiToMeConfig(ratio=0.9, base_model_name_or_path=...).save_pretrained(folder)."
            )
        return settings.to_pitome_dict(), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As `PreTrainedConfig.from_dict`, but of `kwargs` only the fields of this class are taken. The others are
        meant for the model that the recipe names, even what every configuration knows, such as `num_labels`. They are
        returned as unused, or kept in `model_arguments` until that model is loaded."""
        return_unused_kwargs = kwargs.pop("return_unused_kwargs", False)
        for name in ("_from_auto", "_from_pipeline"):
            kwargs.pop(name, None)
        # `image_size`, a field of most configurations of models, too, is meant for the model's.
        names = [name for name in (*FIELDS, "name_or_path", "_commit_hash") if name != "image_size"]
        own = {name: kwargs.pop(name) for name in names if name in kwargs}
        passed = ", ".join(name for name in own if name in FIELDS)
        origin = f"those in the config.json of {show(str(name))}" if (name := own.get("name_or_path")) else ""
        origin += f", but for what was passed: {passed}" if origin and passed else ""
        with settings_are(origin):
            config = cls(**{**config_dict, **own})
        config._origin = origin
        if return_unused_kwargs:
            return config, kwargs
        config.model_arguments = kwargs
        return config

    def for_part(self, name: str) -> PiToMeConfig | None:
        """The settings of the part `name` of a model; `None` where it stays dense."""
        if self.parts is None:
            return self
        if name not in self.parts:
            return None
        own = self.parts[name]
        shared = {key: value for key, value in self.to_pitome_dict().items() if FIELDS[key].scope == "part"}
        if any(budget in own for budget in BUDGETS):  # of its own, which replaces the shared one and its profile
            shared = {key: value for key, value in shared.items() if key not in (*BUDGETS, "profile")}
        with about_part(name):
            return type(self)(**{**shared, **own})

    @property
    def origin(self) -> str:
        """Where the settings were read from, for messages; empty where they were not, or have changed since."""
        own = vars(self)
        return own["_origin"] if own.get("_origin") and _seal(own) == own["_checked"] else ""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes `config.json`; for a recipe also its section of the model card."""
        super().save_pretrained(save_directory, **kwargs)
        self._write_card(save_directory)

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # The last step of `push_to_hub`: by now transformers has put the repository's card there, or a blank one.
        self._write_card(working_dir, repository=repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _write_card(self, directory: str | os.PathLike, **about: Any) -> None:
        if self.base_model_name_or_path:
            from ..cards.card import write_recipe_section

            write_recipe_section(directory, self.to_pitome_dict(), **about)

    def to_pitome_dict(self) -> dict[str, Any]:
        """The fields that are set, as plain data: what goes under `pitome` in a model's `config.json`."""
        fields = vars(self)
        return {name: fields[name] for name in FIELDS if fields[name] is not None}

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data, as it is saved."""
        hidden = ("model_arguments", "_checked", "_origin")
        return {name: value for name, value in super().to_dict().items() if name not in hidden}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PiToMeConfig) and self.to_pitome_dict() == other.to_pitome_dict()

    __hash__ = None


PiToMeConfig.__doc__ = f"{PiToMeConfig.__doc__}\n    Args:\n{''.join(map(Setting.documentation, FIELDS.values()))}"


def register(configuration_auto: ModuleType) -> None:
    """Teaches `AutoConfig` the recipes; called when its module has been imported."""
    configuration_auto.AutoConfig.register(PiToMeConfig.model_type, PiToMeConfig, exist_ok=True)


def configurations(config: PreTrainedConfig, name: str = "") -> Iterator[tuple[str, PreTrainedConfig]]:
    """`config` and the configurations of the model's parts in it, each with its name, such as `vision_config`."""
    yield name, config
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig) and not isinstance(value, PiToMeConfig):
            yield from configurations(value, f"{name}.{key}" if name else key)
