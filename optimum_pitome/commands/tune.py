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
import sys
from pathlib import Path

from ..analysis import pitome_summary
from ..configuration.config import PiToMeConfig
from ..tuning.choice import find_budget
from ..tuning.search import tune_ratios
from .arguments import settings_from
from .unlabelled import load_inputs, load_model


#: Enough for a search, where nobody says how many samples there should be.
_NUM_SAMPLES = 128
#: Enough to show an agreement of 99 %.
_NUM_SAMPLES_OF_A_BOUND = 1000


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    settings = settings_from(args) or {}
    budget = {name: settings.pop(name) for name in ("flops_ratio", "num_tokens") if name in settings}
    bounds = {name: getattr(args, name) for name in ("min_agreement", "max_loss") if getattr(args, name) is not None}
    if len(budget) + len(bounds) != 1:
        raise ValueError("Name one of --flops-ratio, --num-tokens, --min-agreement and --max-loss.")
    if "ratio" in settings:
        raise ValueError("--ratio says how much merges, which is what is searched. Leave it out.")
    model, name, kind, _ = load_model(args, settings)
    inputs, lengths = load_inputs(args, name, model, kind, _NUM_SAMPLES_OF_A_BOUND if bounds else _NUM_SAMPLES)
    length = None if kind == "image" else round(sum(lengths) / len(lengths))
    if bounds:
        choice = find_budget(model, inputs, **bounds)
        sys.stdout.write(f"{choice}\n")
        found = choice.config
    else:
        tried = None if args.output is None else Path(args.output) / "search.jsonl"
        limits = {"max_settings": args.max_settings, "seed": args.seed}
        found = tune_ratios(model, inputs, **budget, sequence_length=length, resume_from=tried, **limits)
    sys.stdout.write(f"{pitome_summary(model, num_tokens=length)}\n{found.to_json_string(use_diff=False)}")
    if args.output is not None:
        _save(found, name, args.output)


def _save(config: PiToMeConfig, base_model: str, directory: str) -> None:
    fields = {**config.to_pitome_dict(), "base_model_name_or_path": base_model}
    PiToMeConfig(**fields).save_pretrained(directory)
    sys.stdout.write(f"Recipe: {directory}. AutoModel.from_pretrained({directory!r}) loads the model with it.\n")
