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

"""What commands that need no labels start from: a model dense or with settings, and batches of its inputs."""

from __future__ import annotations

import argparse
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.utils import logging

from ..benchmarking.machine import device_of
from ..configuration.checks import BUDGETS
from ..configuration.config import PiToMeConfig
from ..evaluation.columns import find_columns
from ..evaluation.data import Batches, load_labelled, take
from ..export.modules import input_kind
from ..hub.entries import entries
from ..hub.recipe_lookup import base_config_of, base_model_of
from .arguments import pitome_keyword
from .preparing import prepare_images, prepare_texts
from .tasks import check_dtype, check_numbers


def load_model(args: argparse.Namespace, settings: dict[str, Any]) -> tuple[torch.nn.Module, str, dict[str, Any]]:
    """The model of a command, with `settings` on top of those that its checkpoint or recipe has, but for how much
    merges.

    Returns:
        The model on `--device`, `"image"` or `"text"`, and the settings.

    Raises:
        ValueError: if the model takes more than pictures or texts, or there is no such device; or for options that
            [`load_inputs`] cannot read with.
    """
    check_numbers(args)
    check_dtype(args.dtype)
    config, recipe = read_config(args)
    found = [("", recipe)] if recipe is not None else entries(config)
    if len(found) > 1:
        raise ValueError(
            f"{args.model} has settings for several of its parts ({', '.join(name for name, _ in found)}), and this "
            "command is about one encoder. Save that part by itself, and name its folder."
        )
    for known in filter(None, (PiToMeConfig.from_value(entry) for _, entry in found)):
        settings = {**_others(known.to_pitome_dict()), **settings}
    chosen = {"revision": args.revision, "dtype": args.dtype}
    device = device_of(args.device)
    model = model_class(config).from_pretrained(args.model, **chosen, pitome=settings or {}).eval()
    return model.to(device), input_kind(type(model), model.config), settings


def read_config(args: argparse.Namespace) -> tuple[PreTrainedConfig, PiToMeConfig | None]:
    """The configuration of the model of a command. Of a recipe it is that of its base model, which `args.model` names
    from then on, and the recipe."""
    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    if not isinstance(config, PiToMeConfig):
        return config, None
    base = base_config_of(config, args.model)
    args.model, args.revision = base_model_of(config, args.model), "main"
    return base, config


def one_setting(args: argparse.Namespace) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """As [`read_config`], for a command that takes one setting; and `pitome=` for it."""
    config, recipe = read_config(args)
    args.ratios = args.flops_ratios = args.settings = None
    keyword = pitome_keyword(args, config if recipe is None else recipe)
    return config, keyword if recipe is None else {"pitome": recipe, **keyword}


def load_inputs(
    args: argparse.Namespace, kind: str, max_samples: int, device: torch.device | None = None
) -> tuple[list[dict[str, Any]], list[int], str]:
    """The batches of `--dataset`, at most `max_samples` unless `--max-samples` says otherwise, on a device; of texts
    the length of each; and the name of the split."""
    dataset, split = load_labelled(args.dataset, args.dataset_config, args.split, args.dataset_revision)
    dataset = take(dataset, max_samples if args.max_samples is None else args.max_samples)
    columns = find_columns(dataset, kind, args.input_columns, labelled=False)
    prepare, lengths = prepare_images(args) if kind == "image" else prepare_texts(args), []
    if kind == "text":  # texts of one length together: less padding
        rows = logging.tqdm(
            list(zip(*(dataset[column] for column in columns))), leave=False, disable=None, desc="lengths of texts"
        )
        lengths = [prepare(*([text] for text in row))["input_ids"].shape[1] for row in rows]
        dataset = dataset.select(sorted(range(len(lengths)), key=lengths.__getitem__))
    batches = Batches(dataset, columns, {}, args.batch_size, prepare)
    found = logging.tqdm(batches, leave=False, disable=None, desc="reading inputs")
    return [{key: value.to(device) for key, value in batch.items()} for batch in found], lengths, split


def _others(settings: dict[str, Any]) -> dict[str, Any]:
    """What settings say beside how much merges."""
    ours = (*BUDGETS, "profile", "layers", "base_model_name_or_path")
    return {name: value for name, value in settings.items() if name not in ours}


def model_class(config: PreTrainedConfig) -> Any:
    """The class that a checkpoint was saved from, so that classifiers are told by their classes."""
    names = getattr(config, "architectures", None) or ()
    return next((found for name in names if (found := getattr(transformers, name, None)) is not None), AutoModel)
