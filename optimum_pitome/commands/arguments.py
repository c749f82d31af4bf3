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

#: Exit codes: it began and failed; it cannot be done as asked, as of argparse; somebody stopped it, as of shells.
FAILED, REFUSED, INTERRUPTED = 1, 2, 130

#: Options that name several settings.
_SEVERAL = ("ratios", "flops_ratios", "algorithms", "settings")


def several_settings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings of `--ratios`, `--flops-ratios`, `--settings` and `--algorithms`, on top of those that all have in
    common."""
    common = settings_from(args) or {}
    given = [{"ratio": ratio} for ratio in args.ratios or ()]
    given += [{"flops_ratio": ratio} for ratio in args.flops_ratios or ()] + (args.settings or [])
    if getattr(args, "algorithms", None):
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
    where `config` has settings (a rewritten model, a recipe), or the defaults."""
    from ..hub.entries import entries

    settings = next(iter(several_settings(args)), None) or settings_from(args)
    if settings is None and not entries(config) and config.model_type != "pitome":
        settings = {}
    return {} if settings is None else {"pitome": settings}


def configured(args: argparse.Namespace) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The configuration of the model that a command is about, of a recipe that of its base model, with `--image-size`;
    and `pitome=` for it."""
    from transformers import AutoConfig

    from ..configuration.config import PiToMeConfig, configurations
    from ..hub.recipe_lookup import base_model_of

    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    keyword = pitome_keyword(args, config)
    if isinstance(config, PiToMeConfig):
        keyword.setdefault("pitome", config)
        config = AutoConfig.from_pretrained(base_model_of(config, args.model))
    size = args.image_size
    if size is not None:
        parts = [part for _, part in configurations(config) if hasattr(part, "image_size")]
        readers = [part for part in parts if getattr(part, "patch_size", None) is not None]
        if not readers:
            raise ValueError("--image-size is for models of images.")
        for reader in readers:
            if size < reader.patch_size or size % reader.patch_size:
                raise ValueError(f"--image-size {size}: expected a multiple of the patch size, {reader.patch_size}.")
            reader.image_size = size
    return config, keyword
