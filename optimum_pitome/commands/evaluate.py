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
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, PreTrainedConfig

from ..analysis.pictures import check_plot
from ..configuration.config import PiToMeConfig
from ..evaluation.evaluation import evaluate
from ..evaluation.results import Evaluations
from ..export.requirements import check_request
from ..export.runtimes import PYTORCH, runtimes
from ..hub.model_cards import write_card, write_recipe_card
from .arguments import pitome_keyword, several_settings
from .results import Results
from .task_options import READ_BY
from .tasks import TASKS, check_task, load_more, load_task, read_data, read_other_data, source_of


#: What int8 is calibrated on, where nobody says how many samples there should be.
_CALIBRATION = 64


def run(args: argparse.Namespace, results: Results) -> None:
    config, evaluations, model = _evaluate(args)
    results.add(evaluations, **evaluations.to_dict())
    if args.plot is not None:
        evaluations.plot(args.plot, f"{args.model} on {args.dataset}")
    if args.model_card is not None:
        card = _write_card(args, config, evaluations, model)
        results.add(f"Model card: {card}", model_card=card)


def _evaluate(args: argparse.Namespace) -> tuple[PreTrainedConfig, Evaluations, Any]:
    for option in ("base_model", "provenance"):
        if getattr(args, option) is not None and args.model_card is None:
            raise ValueError(f"--{option.replace('_', '-')} is for the card: name one with --model-card.")
    for option, (usual, tasks) in READ_BY.items():
        if args.task not in tasks and getattr(args, option) != usual:
            raise ValueError(
                f"--{option.replace('_', '-')} is read by {', '.join(tasks)}, and --task is {args.task}. Leave it out."
            )
    for name in args.base_model or ():
        validate_repo_id(name)
    several = several_settings(args)
    if len(several) > 1 and args.model_card is not None:
        raise ValueError(
            f"--model-card: a card is about one of the settings, and these are {len(several)}. Compare them without "
            "--model-card first; then evaluate the one that the card is for, with it."
        )
    check_task(args)
    check_plot(args.plot)
    quantize = [None if name == "none" else name for name in args.quantize]
    elsewhere = (args.runtime, quantize) != ([PYTORCH], [None])
    exported = any(name != PYTORCH for name in args.runtime)
    if elsewhere and args.model_card is not None:
        raise ValueError("--model-card: a card is about the model in PyTorch. Leave --runtime and --quantize out.")
    for name in args.runtime:
        for how in quantize:
            check_request("torch" if name == PYTORCH else name, how)
    if exported:
        _check_exported(args)
    config = AutoConfig.from_pretrained(args.model, revision=args.revision)
    keyword = pitome_keyword(args, config)
    dataset, split = read_data(args)
    model, judge, data = load_task(args, config, keyword, dataset)
    source = source_of(args, args.task, split)
    found = []
    if elsewhere:
        calibrated = "openvino" in args.runtime and "int8" in quantize
        others = load_more(args, model, read_other_data(args, split, _CALIBRATION)) if calibrated else ()
        found = runtimes(args.runtime, quantize, others)
    options = {"ratios": several or None, "runtimes": found, "total": len(data), "source": source}
    return config, evaluate(model, data, judge, **options), model


def _check_exported(args: argparse.Namespace) -> None:
    """Exported files hold float32, and run on the CPU.

    Raises:
        ValueError: if something else is asked for.
    """
    for option, value, usual in (("device", args.device, "cpu"), ("dtype", args.dtype, "float32")):
        if value not in (usual, "auto"):
            raise ValueError(
                f"--{option} {value}: exported files are evaluated with {usual} alone, and so is PyTorch beside them. "
                f"Leave --{option} out."
            )
    args.dtype = "float32"


def _write_card(args: argparse.Namespace, config: PreTrainedConfig, evaluations: Evaluations, model: Any) -> Path:
    folder = Path(args.model)
    known = {"place": folder.resolve().name, "evaluations": list(evaluations), "repository": None}
    if not folder.exists():
        known["repository"] = known["place"] = args.model
    if isinstance(config, PiToMeConfig):  # names its base model itself
        auto_class = TASKS[args.task].auto_class.__name__
        return write_recipe_card(config, args.model_card, auto_class=auto_class, **known)
    known["saved"] = getattr(config, "pitome", None) == getattr(model.config, "pitome", None)
    if not known["saved"]:
        known["repository"] = None  # what is there merges otherwise, or not at all
    base_model = args.base_model[0] if args.base_model and len(args.base_model) == 1 else args.base_model
    known |= {"name": folder.name, "base_model": base_model, "provenance": args.provenance}
    return write_card(model, args.model_card, **known)
