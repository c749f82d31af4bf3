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

"""The options that say what is evaluated: model, data and task. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..benchmarking.combinations import RUNTIMES
from ..export.requirements import QUANTIZATIONS


#: Of `evaluate`; what they do is in `tasks.py`, which imports torch.
TASK_NAMES = (
    "image-classification",
    "text-classification",
    "token-classification",
    "semantic-segmentation",
    "visual-question-answering",
    "image-text-retrieval",
    "feature-extraction",
)
_WITH_TEXTS = ("text-classification", "token-classification", "image-text-retrieval", "feature-extraction")
#: Options that some tasks alone read → what they are by default, and those tasks.
READ_BY: dict[str, tuple[Any, tuple[str, ...]]] = {
    "instruction": ("", ("visual-question-answering",)),
    "max_new_tokens": (16, ("visual-question-answering",)),
    "max_length": (None, _WITH_TEXTS),
}


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="Hub id or folder of a model, or of a PiToMe recipe.")
    parser.add_argument("--revision", default="main", help="Revision on the Hub.")


def add_data(
    parser: argparse.ArgumentParser, required: bool = True, max_samples: str = "all"
) -> argparse._ArgumentGroup:
    """The options that say what is read; `max_samples` says how many that is by default."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        required=required,
        help="Hub id; a folder with one sub-folder of pictures per class, or with a metadata.jsonl, or written "
        "by save_to_disk; of texts also a csv, tsv, json, jsonl, parquet or txt file.",
    )
    data.add_argument("--dataset-config", help="Configuration of a data set on the Hub, or of a folder with several.")
    data.add_argument("--dataset-revision", help="Revision of a data set on the Hub.")
    data.add_argument("--split", help="Default: test, validation, or the only one.")
    text = f"Number of samples ({max_samples}); the random choice is always the same."
    data.add_argument("--max-samples", type=int, help=text)
    data.add_argument(
        "--input-columns",
        nargs="+",
        help="Column of pictures or texts; two for pairs of texts, and for pictures with questions. Default: found "
        "by type.",
    )
    data.add_argument("--max-length", type=int, help="Longest text in tokens. Default: the model's, at most 512.")
    return data


def add_running(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    running = parser.add_argument_group("running")
    running.add_argument("--batch-size", type=int, default=32, help="Samples at once (32).")
    running.add_argument("--device", default="cpu", help="Such as cpu (default) or cuda.")
    running.add_argument("--dtype", default="auto", help="Such as bfloat16. Default: that of the checkpoint.")
    return running


def add_runtimes(add: Callable[..., Any]) -> None:
    add("--runtime", nargs="+", choices=RUNTIMES, default=["pytorch"], help="pytorch (default); onnx, openvino: CPU.")
    text = "none (default), int8, or both: by torchao, onnxruntime.quantization, or nncf."
    add("--quantize", nargs="+", choices=("none", *QUANTIZATIONS), default=["none"], help=text)


def add_other_runtimes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other runtimes", "The dense model and all settings run there, too.")
    add_runtimes(group.add_argument)
    text = "What int8 in OpenVINO is calibrated on. Default: samples that --max-samples leaves out."
    group.add_argument("--calibration-split", metavar="SPLIT", help=text)


def add_task(parser: argparse.ArgumentParser) -> None:
    """The options of a task: those of an entry under `tasks` in the file of `compare`, too."""
    parser.add_argument(
        "--task",
        required=True,
        choices=TASK_NAMES,
        help="Classification: pictures or texts with classes, accuracy. token-classification: columns of words and of "
        "their tags, accuracy of the tags. semantic-segmentation: pictures and masks (pictures, too) with the class "
        "of every pixel, IoU. visual-question-answering (LLaVA): columns of "
        "pictures, questions and answers (a text, a list, or dictionaries as in VQAv2), VQA accuracy of what is "
        "generated. image-text-retrieval (CLIP, SigLIP, dual encoders): pictures with captions (a text or a list; "
        "equal pictures are one), recall both ways. feature-extraction (encoders): pictures or texts without labels, "
        "how many of the ten nearest neighbours of each stay.",
    )
    data = add_data(parser)
    data.add_argument(
        "--label-column", help="Of classes, masks, answers or captions. Default: found by type, or by name."
    )
    data.add_argument("--instruction", default=READ_BY["instruction"][0], help="Appended to every question.")
    running = add_running(parser)
    running.add_argument(
        "--max-new-tokens", type=int, default=READ_BY["max_new_tokens"][0], help="Longest answer in tokens (16)."
    )


def add_entry(parser: argparse.ArgumentParser) -> None:
    """What an entry under `tasks` may say."""
    add_model(parser)
    add_task(parser)
    parser.add_argument("--name", help="What tables call the task. Default: the name of the data set.")
    parser.add_argument(
        "--measures",
        nargs="+",
        help="What settings are compared by: accuracy, agreement, ... Default: the first metric of the task.",
    )
