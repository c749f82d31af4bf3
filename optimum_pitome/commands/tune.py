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

"""`optimum-cli pitome tune`."""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

from transformers import AutoConfig

from ..analysis import pitome_summary
from ..analysis.report import wrapped
from ..cards.card import hub_id
from ..configuration.config import PiToMeConfig
from ..evaluation.evaluation import hardware_of
from ..hub.model_cards import auto_class_of, search_results, write_recipe_card
from ..hub.recipe_lookup import base_model_of
from ..tuning.choice import check_bound, check_number_of_inputs, find_budget
from ..tuning.search import import_cma, search_ratios
from ..tuning.speed import check_speed_up, tolerance_of
from .arguments import settings_from
from .pushing import check_push, check_recipe_repository, push
from .results import Results
from .tasks import TASKS, source_of
from .unlabelled import load_inputs, load_model


#: Enough for a search, where nobody says how many samples there should be.
_NUM_SAMPLES = 128
#: Enough to show an agreement of 99 %.
_NUM_SAMPLES_OF_A_BOUND = 1000
#: Of a search, where nobody says otherwise: how many settings it tries, and its seed.
_LIMITS = {"max_settings": 100, "seed": 0}
#: Of cards, by the auto class that loads a model.
_TASKS = {task.auto_class.__name__: name for name, task in TASKS.items() if name.endswith("classification")}


def run(args: argparse.Namespace, results: Results) -> None:
    settings = settings_from(args) or {}
    budget = {name: settings.pop(name) for name in ("flops_ratio", "num_tokens") if name in settings}
    if args.speed_up is not None:
        budget["speed_up"] = args.speed_up
    bounds = {name: getattr(args, name) for name in ("min_agreement", "max_loss") if getattr(args, name) is not None}
    if len(budget) + len(bounds) != 1:
        only = " only" if budget or bounds else ""
        raise ValueError(f"Name{only} one of --flops-ratio, --num-tokens, --speed-up, --min-agreement and --max-loss.")
    if "ratio" in settings:
        raise ValueError("--ratio says how much merges, which is what is searched. Leave it out.")
    if "profile" in settings and budget:
        raise ValueError("--profile: a search compares the profiles itself. Leave it out.")
    limits = {name: value for name in _LIMITS if (value := getattr(args, name)) is not None}
    if bounds and limits:
        option = f"--{next(iter(limits)).replace('_', '-')}"
        raise ValueError(f"{option} is about the search for ratios, and a bound needs none. Leave it out.")
    if args.min_agreement is not None and 10 <= args.min_agreement < 100:
        share = f"{args.min_agreement / 100:g}"
        raise ValueError(f"--min-agreement {args.min_agreement:g}: expected a share below 1. Did you mean {share}?")
    if bounds:
        check_bound(**bounds)
        check_number_of_inputs(args.max_samples or _NUM_SAMPLES_OF_A_BOUND, args.min_agreement)
    else:
        import_cma()
    if args.speed_up is not None:
        check_speed_up(args.speed_up)
    if args.output is not None:
        _check_output(Path(args.output), args.model)
    check_push(args)
    if args.push_to_hub is not None:
        check_recipe_repository(args.push_to_hub)
        _check_base_model(args)
    model, kind, _ = load_model(args, settings)
    number = _NUM_SAMPLES_OF_A_BOUND if bounds else _NUM_SAMPLES
    inputs, lengths, split = load_inputs(args, kind, number, model.device)
    length = None if kind == "image" else round(sum(lengths) / len(lengths))
    tried = None if args.output is None or bounds else Path(args.output) / "search.jsonl"
    limits = {**_LIMITS, **limits, "resume_from": tried, "progress": True}
    try:
        if bounds:
            found = find_budget(model, inputs, **bounds)
        else:
            found = search_ratios(model, inputs, length, **budget, **limits, note=results.note)
    except KeyboardInterrupt:
        why = "for a bound is searched anew" if bounds else "since -o names no folder"
        kept = f"nothing was kept, {why}" if tried is None else f"the same command goes on from {tried}"
        raise KeyboardInterrupt(kept) from None
    if args.speed_up is not None and found.timing.speedup < args.speed_up - tolerance_of(args.speed_up):
        results.note(
            f"At the end {found.timing.speedup:.2f} x was measured, less than --speed-up {args.speed_up:g}: timings "
            "of this machine change. Try again while nothing else runs, or with more --max-samples."
        )
    results.add(found, **{key: value for key, value in vars(found).items() if key != "config"})
    settings = {key: value for key, value in found.config.to_pitome_dict().items() if key != "format_version"}
    summary = pitome_summary(model, num_tokens=length)
    title = "The settings as JSON, for --pitome-config here and pitome= in Python:"
    results.add(f"{summary}\n{title}\n{json.dumps(settings)}", settings=settings, summary=summary)
    if args.output is None and args.push_to_hub is None:
        return
    with contextlib.ExitStack() as stack:
        folder = args.output or stack.enter_context(tempfile.TemporaryDirectory())
        source = source_of(args, _TASKS.get(auto_class := auto_class_of(model), "feature-extraction"), split)
        measured = search_results(found, summary, source, hardware_of(model))
        recipe = PiToMeConfig(**{**found.config.to_pitome_dict(), "base_model_name_or_path": args.model})
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_recipe_card(recipe, folder, args.push_to_hub, auto_class=auto_class, results=measured)
        recipe.save_pretrained(folder)  # which leaves a card alone that says the same
        if args.output is not None:
            text = f"Recipe: {folder}. {auto_class}.from_pretrained({folder!r}) loads the model with it."
            if Path(args.model).exists() and not Path(args.model).is_absolute():
                text += f" Run that in {Path.cwd()}, where the recipe's base model {args.model} lies."
            results.add(wrapped([text]), recipe=folder)
        if args.push_to_hub is not None:
            push(args, folder, results, "Tuned recipe")


def _check_base_model(args: argparse.Namespace) -> None:
    """Refuses a recipe for others that names a model which they do not have."""
    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    name = base_model_of(config, args.model) if isinstance(config, PiToMeConfig) else args.model
    if hub_id(name) is None:
        raise ValueError(
            f"--push-to-hub {args.push_to_hub}: the recipe would name {name}, a folder of this machine. Upload "
            "the model first (model.push_to_hub), and name it by its Hub id."
        )


def _check_output(directory: Path, model: str) -> None:
    """Refuses a folder in which something else than a recipe for `model` lies, which would be written over."""
    file = directory / "config.json"
    if not file.exists():
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    lies = "a model" if found.get("model_type") != "pitome" else f"a recipe for {found.get('base_model_name_or_path')}"
    if lies != f"a recipe for {model}":
        raise ValueError(
            f"-o {directory}: {lies} lies there, whose config.json a new recipe would replace. Name another folder."
        )
