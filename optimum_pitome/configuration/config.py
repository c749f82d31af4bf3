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

import dataclasses
import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging

from .checks import FORMAT_VERSION, check_version, is_number, show
from .fields import FIELDS, LOADING_KEYS, NOT_OF_A_PART, TRANSFORMERS_KEYS, fields_of, unknown_field_message


logger = logging.get_logger(__name__)

#: Keys that transformers writes into, or passes through, every configuration.
_BASE_KEYS = TRANSFORMERS_KEYS | LOADING_KEYS | {field.name for field in dataclasses.fields(PreTrainedConfig)}


class PiToMeConfig(PreTrainedConfig):
    """How a model merges its tokens.

    Fields left at `None` take the value that measured best for the architecture at hand (`pitome_summary` shows them).

    Args:
        ratio (`float` or `list[float]`, *optional*, defaults to 0.9):
            Fraction of the mergeable tokens that each merging layer keeps, in [0.5, 1]. A list gives one per layer of
            the model (or one per entry of `layers`). 1.0 is the dense model.
        layers (`list[int]`, *optional*):
            Indices of the layers that merge; negative ones count from the end.
        min_tokens (`int`, *optional*):
            So many of a sample's mergeable tokens stay in any case: short texts, which have little to gain, are left
            as they are, and long ones never get shorter than this. `None`: no such floor.
        algorithm (`str`, *optional*, defaults to `"pitome"`):
            How tokens are matched: `"pitome"`, `"pitome_unprotected"` (the energy-ordered matching that the released
            code of the paper uses in some layers: any token may merge), `"pitome_halves"` (its matching for text: the
            more redundant half of the candidates joins the other), `"tome"` (alternating positions), or
            `"random"` (drops tokens unseen: the floor that the others must clear).
        energy (`str`, *optional*):
            `"paper"` (equation 4), `"elu"`, `"gaussian"` (the released code's), or `"nearest"` (similarity to the
            nearest other token).
        metric (`str`, *optional*): What is compared: `"keys"` (mean over the heads) or `"hidden_states"`.
        margin (`float` or `list[float]`, *optional*):
            Margin of the energy, below 1, one for all or one per layer. `None`: `0.9 - 0.9 * i / L` (equation 4).
        alpha (`float`, *optional*, defaults to 1.0): Scale of the energy below the margin.
        importance (`float`, *optional*):
            Exponent with which the class token's attention weighs the distances between tokens, in [0, 1]: what it
            does not look at merges first. `None`: 0.5 with the default algorithm and energy on encoders that have a
            class token, else 0. 0 leaves it out.
        proportional_attention (`bool`, *optional*): Add the log size of the merged keys to the attention scores.
        unmerge (`bool`, *optional*):
            Return outputs at the original length, each token with its group's vector. `False`: the short sequence.
        preset (`str`, *optional*):
            `"official"`: fields left at `None` do what the released code of the paper does for the architecture.
        parts (`dict[str, float | dict | PiToMeConfig]`, *optional*):
            Which parts of a model merge, and how: `{"vision": 0.9, "text": {"ratio": 0.8}}`. What a part leaves open
            comes from the fields above; parts that are not named stay dense. `None`: in a model that has a vision
            part only that one merges. The names are those of the registered architectures (`Architecture.part`).
        base_model_name_or_path (`str`, *optional*):
            Makes this configuration a recipe: a repository without weights that loads that model, rewritten.
        format_version (`str`): Version of this format.
        protect_token_ids (`list[int]`, *optional*):
            Ids of tokens of a text that never merge, beside the special tokens, which need no naming. They may be any
            number: as many others merge in their place, as long as more of those are there than a layer removes. A
            model that predicts masked tokens adds its mask token by itself, where its tokenizer is found beside the
            weights.

    Raises:
        ValueError: for an unknown field or a value out of range; the message names what is accepted.
    """

    model_type = "pitome"

    def __init__(
        self,
        /,
        ratio: float | list[float] = 0.9,
        layers: list[int] | None = None,
        min_tokens: int | None = None,
        algorithm: str | None = None,
        energy: str | None = None,
        metric: str | None = None,
        margin: float | list[float] | None = None,
        alpha: float | None = None,
        importance: float | None = None,
        proportional_attention: bool | None = None,
        unmerge: bool | None = None,
        preset: str | None = None,
        parts: dict[str, Any] | None = None,
        base_model_name_or_path: str | None = None,
        format_version: str = FORMAT_VERSION,
        protect_token_ids: list[int] | None = None,
        **kwargs: Any,
    ):
        unknown = sorted(key for key in kwargs if key not in _BASE_KEYS)
        newer_minor = check_version(format_version)
        if unknown and not newer_minor:
            raise ValueError(unknown_field_message(unknown[0], kwargs[unknown[0]]))
        if unknown:
            logger.warning(
                f"This PiToMe configuration was written by a newer optimum_pitome (format {format_version}, this is "
                f"{FORMAT_VERSION}). Fields unknown here are ignored: {show(unknown)}."
            )
        base = {key: value for key, value in kwargs.items() if key in _BASE_KEYS}
        try:
            super().__init__(**base)
        except Exception as error:
            raise ValueError(f"transformers refuses {show(base)} in a PiToMeConfig: {show(str(error))}.") from error
        given = {
            "ratio": ratio,
            "layers": layers,
            "min_tokens": min_tokens,
            "algorithm": algorithm,
            "energy": energy,
            "metric": metric,
            "margin": margin,
            "alpha": alpha,
            "importance": importance,
            "proportional_attention": proportional_attention,
            "unmerge": unmerge,
            "preset": preset,
            "protect_token_ids": protect_token_ids,
            "parts": parts,
            "base_model_name_or_path": base_model_name_or_path,
            "format_version": format_version,
        }
        for name, check in FIELDS.items():
            setattr(self, name, check(name, given[name]))
        #: Arguments of `from_pretrained` that are meant for the model that this recipe names. They are never saved.
        self.model_arguments: dict[str, Any] = {}

    @classmethod
    def paper(cls, ratio: float | list[float] = 0.9, **kwargs: Any) -> PiToMeConfig:
        """The paper to the letter: equation 4 over the keys, margin `0.9 - 0.9 i/L`, proportional attention."""
        settings = {"algorithm": "pitome", "energy": "paper", "metric": "keys", "alpha": 1.0, "importance": 0.0}
        return cls(ratio=ratio, **{**settings, "proportional_attention": True, **kwargs})

    @classmethod
    def official(cls, ratio: float | list[float] = 0.9, **kwargs: Any) -> PiToMeConfig:
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
            # A configuration can be changed after it was made. The repr tells 0.9 from numpy's 0.9.
            fields = {name: getattr(value, name, None) for name in FIELDS}
            checked = {name: check(name, fields[name]) for name, check in FIELDS.items()}
            return value if repr(fields) == repr(checked) else cls(**checked)
        if isinstance(value, Mapping):
            return cls(**fields_of(value))
        if is_number(value):
            return cls(ratio=value)
        raise ValueError(
            f"pitome={show(value)} is not understood. Pass a ratio (pitome=0.9), a dict (pitome={{'ratio': 0.9}}; "
            "per layer {'ratio': [0.9, ...]}; by part {'vision': 0.9}), a PiToMeConfig, or False for the dense model."
        )

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> tuple[dict, dict]:
        """As in transformers; of a rewritten model's checkpoint, the `pitome` entry of its `config.json`.

        Raises:
            ValueError: for the checkpoint of a dense model.
        """
        found, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = found.get("model_type")
        if model_type in (None, cls.model_type):
            return found, kwargs
        settings = cls.from_value(found.get("pitome"))
        if settings is None:
            raise ValueError(
                f"{show(pretrained_model_name_or_path)} is a {show(model_type)} model without a `pitome` entry in its "
                "config.json, so there are no settings of merging to read. Load it with pitome=0.9, say, and save it, "
                "or write a recipe: PiToMeConfig(ratio=0.9, base_model_name_or_path=...).save_pretrained(folder)."
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
        own = {name: kwargs.pop(name) for name in (*FIELDS, "name_or_path", "_commit_hash") if name in kwargs}
        config = cls(**{**config_dict, **own})
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
        shared = {key: value for key, value in self.to_pitome_dict().items() if key not in NOT_OF_A_PART}
        return type(self)(**{**shared, **self.parts[name]})

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
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain data, as it is saved."""
        settings = super().to_dict()
        settings.pop("model_arguments", None)
        return settings

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PiToMeConfig) and self.to_pitome_dict() == other.to_pitome_dict()

    __hash__ = None


def register(configuration_auto: ModuleType) -> None:
    """Teaches `AutoConfig` the recipes; called when its module has been imported."""
    configuration_auto.AutoConfig.register(PiToMeConfig.model_type, PiToMeConfig, exist_ok=True)


def configurations(config: PreTrainedConfig, name: str = "") -> Iterator[tuple[str, PreTrainedConfig]]:
    """`config` and the configurations of the model's parts in it, each with its name, such as `vision_config`."""
    yield name, config
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig) and not isinstance(value, PiToMeConfig):
            yield from configurations(value, f"{name}.{key}" if name else key)
