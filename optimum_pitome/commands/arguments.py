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

"""What the options of a command say. Imports nothing heavy by itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from ..configuration.checks import BUDGETS, leads_nowhere
from ..configuration.fields import FIELDS


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..configuration.config import PiToMeConfig

#: Exit codes: it began and failed; it cannot be done as asked, as of argparse; somebody stopped it, or stopped reading
#: what it writes, as of shells.
FAILED, REFUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141

#: Options that name several settings.
_SEVERAL = ("ratios", "flops_ratios", "algorithms", "settings")


def several_settings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings of `--ratios`, `--flops-ratios`, `--settings` and `--algorithms`, on top of those that all have in
    common."""
    common = settings_from(args) or {}
    given = [{"ratio": ratio} for ratio in args.ratios or ()]
    given += [{"flops_ratio": ratio} for ratio in args.flops_ratios or ()] + (args.settings or [])
    if getattr(args, "algorithms", None):
        if any("algorithm" in one for one in given):
            raise ValueError("--algorithms and --settings both say algorithm: say it in one of them.")
        given = [{"algorithm": name, **one} for one in given or [{}] for name in args.algorithms]
    named = {name for one in given for name in one}
    twice = sorted(named & common.keys())
    if not twice and {*BUDGETS} & named and {*BUDGETS} & common.keys():
        twice = ["how much merges"]
    if twice:
        several = [name for name in _SEVERAL if getattr(args, name, None)]
        fields = sorted(common.keys() & (named | ({*BUDGETS} if named & {*BUDGETS} else set())))
        others = [name if getattr(args, name, None) is not None else "pitome_config" for name in fields]
        raise ValueError(
            f"{_options(several)} and {_options(others)} both say {', '.join(twice)}: say it in one of them. What "
            f"stands beside {_options(several)} is what all settings have in common."
        )
    return [{**common, **one} for one in given]


def _options(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in dict.fromkeys(names))


def settings_name(settings: dict[str, Any]) -> str:
    """How a report calls one of several settings."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def fail(parser: argparse.ArgumentParser, error: Exception | str, code: int = REFUSED) -> NoReturn:
    """Ends the command with the message alone: the usage says nothing about what lies in files."""
    parser.exit(code, f"{parser.prog}: error: {error}\n")


def reason_of(error: OSError) -> str:
    """Why a file that was named cannot be read, after its name."""
    return "there is no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror})"


def check_model(name: str) -> None:
    """
    Raises:
        ValueError: if a path leads nowhere, which the Hub would call a wrong name of a repository.
    """
    if leads_nowhere(name):
        raise ValueError(
            f"{name}: there is no such folder. Name a folder with a model or a recipe, or a Hub id such as "
            "google/vit-base-patch16-224."
        )


def settings_from(args: argparse.Namespace) -> dict[str, Any] | None:
    """The settings of the command line as keyword arguments of `PiToMeConfig`; `None` if there are none."""
    options = {name: value for name in FIELDS if (value := getattr(args, name, None)) is not None}
    others = args.pitome_config or {}
    if any(name in options for name in BUDGETS):
        others = {name: value for name, value in others.items() if name not in BUDGETS}
    return {**others, **options} or None


def pitome_keyword(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """`pitome=` for loading a model of `config`: what the command line says, the first of several settings; or nothing
    where `config` has settings (a rewritten model, a recipe), or the defaults. `--image-size` alone changes no
    settings."""
    from ..hub.entries import entries

    settings = next(iter(several_settings(args)), None) or settings_from(args)
    has_settings = bool(entries(config)) or config.model_type == "pitome"
    if has_settings and settings is not None and settings.keys() <= {"image_size"}:
        settings = None
    if settings is None and not has_settings:
        settings = {}
    return {} if settings is None else {"pitome": settings}


def configured(args: argparse.Namespace, resized: bool = True) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The configuration of the model that a command is about (of a recipe its base model's), and `pitome=` for it.

    Args:
        resized (`bool`): whether the configuration gets the size of `--image-size`. Saved settings keep their ratios.
    """
    from transformers import AutoConfig

    from ..configuration.config import PiToMeConfig, configurations
    from ..hub.recipe_lookup import base_config_of

    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    keyword = pitome_keyword(args, config)
    if isinstance(config, PiToMeConfig):
        keyword.setdefault("pitome", config)
        config = base_config_of(config, args.model)
    size = args.image_size
    if size is None:
        return config, keyword
    readers = readers_of_pictures(config)
    if not readers:
        raise ValueError("--image-size is for models of images.")
    if isinstance(keyword.get("pitome"), PiToMeConfig):
        keyword["pitome"] = _counted_at(keyword["pitome"], readers[0].image_size)
    for _, part in configurations(config):
        if getattr(part, "pitome", None):
            part.pitome = _counted_at(PiToMeConfig.from_value(part.pitome), readers[0].image_size).to_pitome_dict()
    for reader in readers:
        if not fits(size, reader):
            raise ValueError(f"--image-size {size}: expected a multiple of the patch size, {reader.patch_size}.")
        if resized:
            reader.image_size = size
    return config, keyword


def readers_of_pictures(config: PreTrainedConfig) -> list[Any]:
    """The configurations in `config` that say the size of pictures and how they are cut into patches."""
    from ..configuration.config import configurations

    parts = [part for _, part in configurations(config) if getattr(part, "image_size", None) is not None]
    return [part for part in parts if getattr(part, "patch_size", None) is not None]


def fits(size: int | list[int], reader: Any) -> bool:
    """Whether pictures of this size can be cut into the patches of `reader`."""
    patch = reader.patch_size if isinstance(reader.patch_size, int) else max(reader.patch_size)
    return all(side >= patch and side % patch == 0 for side in (size if isinstance(size, list) else [size]))


def _counted_at(settings: PiToMeConfig, size: int | list[int]) -> PiToMeConfig:
    """Saved `settings`, whose budget stays that of the configured size."""
    own = settings.for_part("vision")
    if own is None or own.ratio is not None or own.image_size is not None:
        return settings
    return type(settings)(**{**settings.to_pitome_dict(), "image_size": size})
