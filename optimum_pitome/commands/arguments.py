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

"""Options that the commands share. Only argparse is imported before a command runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..configuration.fields import FIELDS, METRICS, PRESETS, fields_of
from ..methods import ALGORITHMS, ENERGIES


#: Of `evaluate`; what they do is in `tasks.py`, which imports torch.
TASK_NAMES = ("image-classification", "text-classification", "visual-question-answering", "image-text-retrieval")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="Hub id or folder of a model, or of a PiToMe recipe.")
    parser.add_argument("--revision", default="main", help="Revision on the Hub.")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The fields of `PiToMeConfig`. They are checked as they are parsed, before torch is imported."""
    group = parser.add_argument_group("merging", "Without any of these: the settings in config.json, or the defaults.")
    group.add_argument(
        "--ratio",
        type=_field("ratio", _ratio),
        help="Fraction of the tokens that each layer keeps, such as 0.9; or a list, 0.9,0.95,1",
    )
    group.add_argument("--layers", type=_field("layers", _layers), help="Layers that merge, such as 0,1,2")
    group.add_argument("--min-tokens", type=_field("min_tokens", int), help="See PiToMeConfig.min_tokens.")
    choices = {"algorithm": ALGORITHMS, "energy": ENERGIES, "metric": METRICS, "preset": PRESETS}
    for name, accepted in choices.items():
        group.add_argument(f"--{name}", choices=list(accepted), help=f"See PiToMeConfig.{name}.")
    group.add_argument(
        "--importance", type=_field("importance", float), help="See PiToMeConfig.importance; 0 leaves it out."
    )
    group.add_argument(
        "--pitome-config", metavar="JSON", type=_json_settings, help="Any fields as JSON, or a file with them."
    )


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        required=True,
        choices=TASK_NAMES,
        help="Classification: pictures or texts with classes, accuracy. visual-question-answering (LLaVA): columns of "
        "pictures, questions and answers (a text, a list, or dictionaries as in VQAv2), VQA accuracy of what is "
        "generated. image-text-retrieval (CLIP, SigLIP, dual encoders): pictures with captions (a text or a list; "
        "equal pictures are one), recall both ways.",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        required=True,
        help="Hub id; a folder with one sub-folder of pictures per class, or with a metadata.jsonl, or written "
        "by save_to_disk; of texts also a csv, tsv, json, jsonl or parquet file.",
    )
    data.add_argument("--dataset-config", help="Configuration of a data set on the Hub.")
    data.add_argument("--dataset-revision", help="Revision of a data set on the Hub.")
    data.add_argument("--split", help="Default: test, validation, or the only one.")
    data.add_argument(
        "--max-samples", type=int, help="Evaluate on so many samples, chosen at random but always alike."
    )
    data.add_argument(
        "--input-columns",
        nargs="+",
        help="Column of pictures or texts; two for pairs of texts, and for pictures with questions. Default: found "
        "by type.",
    )
    data.add_argument("--label-column", help="Of classes, answers or captions. Default: found by type, or by name.")
    data.add_argument("--instruction", default="", help="Appended to every question.")
    data.add_argument("--max-length", type=int, help="Longest text in tokens. Default: the model's, at most 512.")
    running = parser.add_argument_group("running")
    running.add_argument("--batch-size", type=int, default=32, help="Samples at once (32).")
    running.add_argument("--max-new-tokens", type=int, default=16, help="Longest answer in tokens (16).")
    running.add_argument("--device", default="cpu", help="Such as cpu (default) or cuda.")
    running.add_argument("--dtype", default="auto", help="Such as bfloat16. Default: that of the checkpoint.")
    several = parser.add_argument_group("several settings", "Dense and all of them run on every batch.")
    several.add_argument(
        "--ratios",
        nargs="+",
        type=_field("ratio", _ratio),
        help="Several ratios, such as 0.95 0.9 0.8; each may be a list (0.9,0.95,1).",
    )
    several.add_argument(
        "--settings",
        nargs="+",
        metavar="JSON",
        type=_json_settings,
        help='Settings as JSON, such as \'{"ratio": 0.9, "energy": "paper"}\', or files with it.',
    )
    parser.add_argument("--json", metavar="PATH", help="Write the results to a file.")
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


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32], help="One or several (1 8 32).")
    parser.add_argument("--num-tokens", type=int, help="Length of the texts (default: the model's longest).")
    parser.add_argument("--image-size", type=int, help="Side of the pictures in pixels (default: the model's).")
    parser.add_argument("--rounds", type=int, default=20, help="How often each is timed (20).")
    parser.add_argument("--warmup", type=int, default=3, help="Rounds before that, which do not count (3).")
    parser.add_argument("--device", default="cpu", help="Such as cpu (default) or cuda.")
    parser.add_argument("--dtype", default="float32", help="Such as bfloat16 (default: float32).")
    parser.add_argument("--compile", action="store_true", help="Time both under torch.compile.")
    parser.add_argument("--training", action="store_true", help="Time training steps (forward, backward, AdamW).")


def fail(parser: argparse.ArgumentParser, error: Exception) -> NoReturn:
    """Ends the command with the message alone: the usage says nothing about what lies in files."""
    parser.exit(2, f"{parser.prog}: error: {error}\n")


def settings_from(args: argparse.Namespace) -> dict[str, Any] | None:
    """The settings of the command line as keyword arguments of `PiToMeConfig`; `None` if there are none."""
    settings = dict(args.pitome_config or {})
    for name in ("ratio", "layers", "min_tokens", "algorithm", "energy", "metric", "preset", "importance"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    return settings or None


def pitome_keyword(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """`pitome=` for loading a model of `config`: what the command line says, or nothing where `config` has settings
    (a rewritten model, a recipe), or the defaults."""
    from ..hub.entries import entries

    settings = settings_from(args)
    if settings is None and not entries(config) and config.model_type != "pitome":
        settings = {}
    return {} if settings is None else {"pitome": settings}


def _field(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse: reads text, and checks it as the field `name`."""

    def convert(text: str) -> Any:
        try:
            value = read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text}: expected a number, or several with commas between them."
            ) from None
        return _checked(name, value)

    return convert


def _checked(name: str, value: Any) -> Any:
    try:
        return FIELDS[name](name, value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _ratio(text: str) -> float | list[float]:
    values = [float(part) for part in text.split(",")]
    return values if len(values) > 1 else values[0]


def _layers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _json_settings(text: str) -> dict[str, Any]:
    """The fields in JSON, or in a file with JSON."""
    try:
        settings = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"expected an object, not {type(settings).__name__}")
    except (OSError, RecursionError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f'{error}. Expected JSON such as {{"ratio": 0.9}}, or a file of it.'
        ) from None
    try:
        settings = fields_of(settings)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return {name: _checked(name, value) if name in FIELDS else value for name, value in settings.items()}
