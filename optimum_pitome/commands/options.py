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

"""The options of the commands. Only argparse is imported before a command runs."""

from __future__ import annotations

import argparse
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..benchmarking.combinations import DTYPES, MEASURES, MODES
from ..configuration.checks import Setting
from ..configuration.fields import FIELDS, fields_of
from ..export.requirements import FORMATS, OPSETS, PARTS, QUANTIZATIONS
from ..methods import COUNTS
from .arguments import reason_of
from .imports import add_imports
from .parsing import add_output, decimal_comma, explain_errors, numbers
from .serve_options import add_server
from .task_options import add_data, add_model, add_other_runtimes, add_running, add_runtimes, add_task


def add_options(parser: argparse.ArgumentParser, command: str) -> None:
    add_imports(parser)
    for add in _OPTIONS[command]:
        add(parser)
    add_output(parser)
    explain_errors(parser, command, _OPTIONS)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The fields of `PiToMeConfig`. They are checked as they are parsed, before torch is imported."""
    group = parser.add_argument_group(
        "merging",
        "Without any of these: the settings in config.json, or the defaults. Lists are written with commas, such as "
        "--ratio 0.9,0.95,1 (and --layers=-2,-1 where the first number is negative).",
    )
    for name, setting in FIELDS.items():  # --image-size is also that of the pictures of `summary` and `benchmark`
        if setting.scope != "file":
            usual = "" if setting.usual is None else f" Usually {setting.usual}."
            text = (setting.help + usual).replace("`", "").replace("%", "%%")
            group.add_argument(f"--{name.replace('_', '-')}", help=text, **_option(setting))
    group.add_argument(
        "--pitome-config",
        metavar="JSON",
        type=_json_settings,
        help="Any fields as JSON, or a file with them. Where an option above says the same, the option counts.",
    )


def _add_summary(parser: argparse.ArgumentParser) -> None:
    _add_several(parser)
    _add_sizes(parser)
    text = "exact (default), or paper: as the tables of the paper count."
    parser.add_argument("--count", choices=COUNTS, default="exact", help=text)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    add_data(parser, max_samples="128; with --min-agreement or --max-loss 1000")
    add_running(parser)
    group = parser.add_argument_group(
        "what is searched",
        "With --flops-ratio, --num-tokens or --speed-up: the ratio of every layer that loses the least within that "
        "budget. With --min-agreement or --max-loss: the largest --flops-ratio that keeps it. The loss is that to the "
        "dense model: the Kullback-Leibler divergence of the logits, or, of a model without logits, 1 - cosine of the "
        "first token and of the mean token, the mean of the two.",
    )
    group.add_argument(
        "--speed-up",
        type=float,
        help="N times as fast as dense, measured here with the inputs; first the budget for that is searched.",
    )
    group.add_argument(
        "--min-agreement",
        type=float,
        help="Share of the inputs that keep their class, such as 0.99: the lower end of its 95 %% interval.",
    )
    group.add_argument(
        "--max-loss", type=float, help="Largest mean loss, such as 0.01: the upper end of its 95 %% interval."
    )
    text = "Settings tried, each on two thirds of the inputs (100): profiles, other means, then ratios of every "
    text += "layer, for which fewer than about 30 leave no room."
    group.add_argument("--max-settings", type=int, help=text)
    group.add_argument("--seed", type=int, help="Of the search (0).")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="Write a recipe (config.json) with its card here, and what a search for ratios tried: the same command "
        "goes on there after it was interrupted. (A bound is searched anew.)",
    )
    _add_push(parser.add_argument)


def _add_push(add: Callable[..., Any]) -> None:
    add("--push-to-hub", metavar="REPO", help="Upload what is written to this repository of the Hub.")
    add("--private", action="store_true", help="A repository that is made for it is private.")


def _add_export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is written").add_argument
    add("--format", choices=FORMATS, default="onnx", help="onnx (default), openvino, or torch.")
    add("--part", choices=PARTS, help="Of CLIP, SigLIP and dual encoders: vision or text.")
    add("--quantize", choices=QUANTIZATIONS, help="Weights and activations; of OpenVINO without --dataset weights.")
    add("--opset", type=int, help=f"Of ONNX: {OPSETS.start} (default) to {OPSETS.stop - 1}.")
    add("--tolerance", type=float, help="Largest relative difference (0.001); of int8 mean of 1 - cosine (0.05).")
    add("-o", "--output", metavar="DIR", required=True, help="A folder, new or empty.")
    _add_push(add)
    data = add_data(parser, required=False, max_samples="64")
    data.add_argument("--batch-size", type=int, default=8, help="Samples at once (8).")


def _add_visualize(parser: argparse.ArgumentParser) -> None:
    text = "Pictures, clips (videos, GIFs, folders of frames) or sounds, as the model takes; or folders of them."
    parser.add_argument("images", nargs="*", metavar="FILE", help=text)
    add = parser.add_argument_group("what is drawn").add_argument
    add("--text", nargs="+", dest="texts", metavar="TEXT", help="Texts, in place of pictures.")
    add("--text-file", metavar="PATH", help="A file with a text on every line.")
    add("--max-length", type=int, help="Longest text in tokens. Default: the model's, at most 512.")
    text = "Layers to show, counted from 0, such as 2 5 -1 (default: four of those that merge; the GIF has all)."
    add("--show-layers", type=int, nargs="+", metavar="LAYER", help=text)
    add("--side", type=int, default=336, help="Longer side of one panel in pixels (336).")
    add("--device", default="cpu", help="Such as cpu (default) or cuda.")
    add("--dtype", default="auto", help="Such as bfloat16. Default: that of the checkpoint.")
    text = "Of a file NAME.png, NAME-layers.gif and NAME.json are written here; of texts text.html, .svg and .json."
    add("-o", "--output", metavar="DIR", required=True, help=text)


def _add_spectrum(parser: argparse.ArgumentParser) -> None:
    add_data(parser, max_samples="32")
    add_running(parser)
    several = {"nargs": "+", "metavar": "JSON", "type": _json_settings}
    text = "Settings to compare, as JSON or files. Default: every algorithm. The one layer that merges keeps --ratio "
    parser.add_argument("--settings", **several, help=f"{text}(0.75); --layers says which take their turn (all).")
    graph = {"choices": ("distance", "similarity"), "default": "distance"}
    parser.add_argument("--graph", **graph, help="What joins two tokens: 1 - cos (default), or max(cos, 0).")
    parser.add_argument("--plot", metavar="PATH", help="Draw the distance over the layers (needs matplotlib).")


def _add_several(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several settings", "What the other options say is common to all of them.")
    group.add_argument(
        "--ratios",
        nargs="+",
        **_option(FIELDS["ratio"]),
        help="Several ratios, such as 0.95 0.9 0.8; each may be a list (0.9,0.95,1).",
    )
    group.add_argument(
        "--flops-ratios", nargs="+", **_option(FIELDS["flops_ratio"]), help="Several budgets, such as 1.35 1.8 2.3."
    )
    group.add_argument("--algorithms", nargs="+", **_option(FIELDS["algorithm"]), help="Several, with each of these.")
    group.add_argument(
        "--settings",
        nargs="+",
        metavar="JSON",
        type=_json_settings,
        help='Settings as JSON, such as \'{"ratio": 0.9, "energy": "paper"}\', or files with it.',
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sequence-length", type=int, help="Tokens of a text (default: as many as the model reads).")


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", metavar="GRID.yaml", help="Tasks and settings: see docs/comparing.md.")
    text = "Write the rows and the report here. The same command goes on there after it was interrupted."
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help=text)
    running = parser.add_argument_group("running", "For all tasks, in place of what the file says.")
    running.add_argument("--max-samples", type=int, help="Number of samples; the random choice is always the same.")
    running.add_argument("--batch-size", type=int, help="Samples at once.")
    running.add_argument("--device", help="Such as cpu or cuda.")
    running.add_argument("--dtype", help="Such as bfloat16.")
    text = "Seeds of settings that leave something to chance, each of which is a row."
    running.add_argument("--seed", type=int, nargs="+", dest="seeds", help=text)


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    _add_several(parser)
    add_other_runtimes(parser)
    parser.add_argument("--plot", metavar="PATH", help="Draw the results against operations (needs matplotlib).")
    parser.add_argument(
        "--model-card",
        metavar="PATH",
        help="Write a model card with the results, and this command line, to a .md file or into a folder. A card is "
        "about one of the settings.",
    )
    parser.add_argument(
        "--base-model", nargs="+", help="For the card of a fine-tuned model: Hub ids of what it was made from."
    )
    parser.add_argument(
        "--provenance",
        metavar="TEXT",
        help="For the card: where the weights come from, if that is no model on the Hub.",
    )


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="Hub ids or folders of models, or of recipes.")
    parser.add_argument("--revision", default="main", help="Revision on the Hub.")
    _add_several(parser)
    group = parser.add_argument_group(
        "combinations", "Every combination of these, with the settings, is a row; what cannot run says why in its row."
    )
    add = group.add_argument
    add("--batch-size", type=int, nargs="+", default=[1, 8, 32], help="One or several (1 8 32).")
    add("--dtype", nargs="+", choices=DTYPES, default=["float32"], help="One or several (float32).")
    text = "One or several, such as sdpa eager (default: the model's own)."
    add("--attn-implementation", nargs="+", default=["default"], help=text)
    text = "eager (default), or what torch.compile is told; the last two capture CUDA graphs."
    add("--mode", nargs="+", choices=MODES, default=["eager"], help=text)
    add("--compile", dest="mode", action="store_const", const=["compile"], help="The same as --mode compile.")
    add_runtimes(add)
    text = "forward (default), first-token (of models that generate), training (forward, backward, AdamW)."
    add("--measure", nargs="+", choices=MEASURES, default=["forward"], help=text)
    add("--training", dest="measure", action="store_const", const=["training"], help="The same as --measure training.")
    _add_sizes(parser)
    parser.add_argument("--weights", action="store_true", help="Read weights, so that 1 - cosine says something.")
    parser.add_argument("--rounds", type=int, default=20, help="How often each is timed (20).")
    parser.add_argument("--max-seconds", type=float, help="Of a row: no more rounds after that, if there were three.")
    parser.add_argument("--warmup", type=int, default=3, help="Rounds before that, which do not count (3).")
    text = "wall (default), or cpu: processor time, which says more on a machine that others use, with one thread."
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=text)
    parser.add_argument("--device", default="cpu", help="Such as cpu (default) or cuda; auto: a GPU, if there is one.")
    text = "Write benchmark.json, .md and .png here. Rows that lie here stay, and are not measured again."
    parser.add_argument("-o", "--output-dir", metavar="DIR", help=text)


def _option(setting: Setting) -> dict[str, Any]:
    """How argparse reads a field: its type says it."""
    if setting.choices is not None:
        return {"type": lambda text: _checked(setting.name, text), "metavar": f"{{{','.join(setting.choices)}}}"}
    kinds = typing.get_args(setting.type)
    if bool in kinds:
        return {"action": argparse.BooleanOptionalAction}
    if dict[str, Any] in kinds:
        return {"type": lambda text: _checked(setting.name, _json(text, '{"vision": 0.9}')), "metavar": "JSON"}
    return {"type": lambda text: _checked(setting.name, numbers(text, kinds), decimal_comma(text, kinds))}


def _checked(name: str, value: Any, hint: str = "") -> Any:
    try:
        return FIELDS[name].checked(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}{hint}") from None


def _json(text: str, example: str) -> dict[str, Any]:
    """An object in JSON, or in a file with JSON."""
    try:
        settings = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"expected an object, not {type(settings).__name__}")
    except (OSError, RecursionError, ValueError) as error:
        reason = f"{_file(text)}{reason_of(error) if isinstance(error, OSError) else error}"
        raise argparse.ArgumentTypeError(f"{reason}. Expected JSON such as {example}, or a file of it.") from None
    return settings


def _file(text: str) -> str:
    """What begins a message about `text`, if that is the name of a file rather than JSON itself."""
    return "" if text.lstrip().startswith("{") else f"{text}: "


def _json_settings(text: str) -> dict[str, Any]:
    try:
        settings = fields_of(_json(text, '{"ratio": 0.9}'))
        return {name: FIELDS[name].checked(value) if name in FIELDS else value for name, value in settings.items()}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{_file(text)}{error}") from None


_OPTIONS = {
    "summary": (add_model, add_settings, _add_summary),
    "evaluate": (add_model, add_settings, _add_evaluation),
    "benchmark": (add_settings, _add_benchmark),
    "tune": (add_model, add_settings, _add_tuning),
    "spectrum": (add_model, add_settings, _add_spectrum),
    "compare": (_add_comparison,),
    "visualize": (add_model, add_settings, _add_visualize),
    "export": (add_model, add_settings, _add_export),
    "serve": (add_server, add_settings),
}
