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

"""`optimum-cli pitome spectrum`."""

from __future__ import annotations

import argparse
from typing import Any

from ..analysis.layer_spectra import all_algorithms, measure_spectra
from ..analysis.pictures import check_plot
from .arguments import settings_from, settings_name
from .results import Results
from .unlabelled import load_inputs, load_model


#: Enough for a mean per layer, where nobody says how many samples there should be: every setting runs on all of them.
_NUM_SAMPLES = 32
_RATIO = 0.75


def run(args: argparse.Namespace, results: Results) -> None:
    check_plot(args.plot)
    common = settings_from(args) or {}
    for name in ("flops_ratio", "num_tokens"):
        if name in common:
            raise ValueError(f"--{name.replace('_', '-')}: here one layer merges at a time. Give one --ratio.")
    how_much = {name: common.pop(name) for name in ("ratio", "layers") if name in common}
    settings, name = _compared(args, common), args.model
    model, kind, loaded = load_model(args, {})
    settings = {title: {**loaded, **fields} for title, fields in settings.items()}
    inputs, *_ = load_inputs(args, kind, _NUM_SAMPLES, model.device)
    how_much = {"ratio": how_much.get("ratio", _RATIO), "layers": how_much.get("layers")}
    found = measure_spectra(model, inputs, settings, graph=args.graph, **how_much)
    text = f"one layer keeps {how_much['ratio']} of the tokens that may merge\n{found}"
    results.add(text, ratio=how_much["ratio"], **found.to_dict())
    if args.plot is not None:
        found.plot(args.plot, f"{name} on {args.dataset}")


def _compared(args: argparse.Namespace, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings by name: those of `--settings`, the one that the other options describe if they name an algorithm,
    or every algorithm."""
    if args.settings is not None:
        given = {settings_name(one): one for one in args.settings}
    elif "algorithm" in common:
        given = {common["algorithm"]: {}}
    else:
        given = all_algorithms()
    return {name: {**common, **fields} for name, fields in given.items()}
