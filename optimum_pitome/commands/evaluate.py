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

"""`optimum-cli pitome evaluate`."""

from __future__ import annotations

import argparse
import inspect
import math
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, PreTrainedConfig

from ..configuration.config import PiToMeConfig
from ..evaluation.data import find_columns, load_labelled, take
from ..evaluation.evaluation import evaluate
from ..evaluation.results import Evaluations
from ..hub.model_cards import write_card, write_recipe_card
from ..hub.recipe_lookup import base_model_of
from .arguments import pitome_keyword, several_settings
from .tasks import TASKS


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    config, evaluations, model = _evaluate(args)
    sys.stdout.write(f"{evaluations}\n")
    if args.json is not None:
        evaluations.to_json(args.json)
    if args.plot is not None:
        evaluations.plot(args.plot, f"{args.model} on {args.dataset}")
    if args.model_card is not None:
        sys.stdout.write(f"Model card: {_write_card(args, config, evaluations, model)}\n")


def _evaluate(args: argparse.Namespace) -> tuple[PreTrainedConfig, Evaluations, Any]:
    for option in ("base_model", "provenance"):
        if getattr(args, option) is not None and args.model_card is None:
            raise ValueError(f"--{option.replace('_', '-')} is for the card: name one with --model-card.")
    for name in args.base_model or ():
        validate_repo_id(name)
    for option in ("batch_size", "max_new_tokens"):
        if getattr(args, option) < 1:
            raise ValueError(f"--{option.replace('_', '-')} {getattr(args, option)}: expected at least 1.")
    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    keyword, several = pitome_keyword(args, config), several_settings(args)
    if len(several) > 1 and args.model_card is not None:
        raise ValueError(
            f"--model-card: a card is about one of the settings, and these are {len(several)}. Evaluate the one "
            "that the card is for by itself."
        )
    if args.dtype != "auto" and not isinstance(getattr(torch, args.dtype, None), torch.dtype):
        raise ValueError(f"--dtype {args.dtype}: expected auto, float32, bfloat16 or float16.")
    dataset, split = load_labelled(args.dataset, args.dataset_config, args.split, args.dataset_revision)
    dataset = take(dataset, args.max_samples)
    task = TASKS[args.task]
    columns = find_columns(dataset, task.kind, args.input_columns, args.label_column)
    if args.task == "feature-extraction" and "add_pooling_layer" in _arguments(task.auto_class, config, args.model):
        keyword["add_pooling_layer"] = False  # few checkpoints have its weights, and nothing here reads it
    try:
        model = task.auto_class.from_pretrained(args.model, revision=args.revision, dtype=args.dtype, **keyword)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(
            f"--task {args.task}: {task.auto_class.__name__} knows no model of type {config.model_type!r}. Name the "
            f"task that {args.model} was made for."
        ) from None
    source = {"task": args.task, "dataset": _name(args.dataset), "config": args.dataset_config, "split": split}
    source["command"] = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    try:
        model.to(args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {error}") from None
    judge, data = task.prepare(model, dataset, columns, args)
    source = {name: value for name, value in source.items() if value}
    total = math.ceil(len(dataset) / args.batch_size)
    return config, evaluate(model, data, judge, ratios=several or None, total=total, source=source), model


def _arguments(auto_class: Any, config: PreTrainedConfig, name: str) -> Collection[str]:
    """What the class that `auto_class` loads is made with."""
    if isinstance(config, PiToMeConfig):
        config = AutoConfig.from_pretrained(base_model_of(config, name))
    try:
        return inspect.signature(auto_class._model_mapping[type(config)]).parameters
    except KeyError:  # of which the loading says more
        return ()


def _name(dataset: str) -> str:
    """What a card calls a data set: a path of this machine says nothing to others."""
    return Path(dataset).resolve().stem if Path(dataset).exists() else dataset


def _write_card(args: argparse.Namespace, config: PreTrainedConfig, evaluations: Evaluations, model: Any) -> Path:
    known = {"repository": None if Path(args.model).exists() else args.model, "evaluations": list(evaluations)}
    if isinstance(config, PiToMeConfig):  # names its base model itself
        auto_class = TASKS[args.task].auto_class.__name__
        return write_recipe_card(config, args.model_card, auto_class=auto_class, **known)
    known["saved"] = getattr(config, "pitome", None) == getattr(model.config, "pitome", None)
    if not known["saved"]:
        known["repository"] = None  # what is there merges otherwise, or not at all
    base_model = args.base_model[0] if args.base_model and len(args.base_model) == 1 else args.base_model
    known |= {"name": Path(args.model).name, "base_model": base_model, "provenance": args.provenance}
    return write_card(model, args.model_card, **known)
