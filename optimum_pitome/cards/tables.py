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

"""The tables of a card, read back from the `model-index` of its metadata."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from huggingface_hub import EvalResult


#: `metric_config` says which of the two models a result is of.
_MODELS = ("dense", "merged")
#: Evaluation → the Hub's tag, where that names a pipeline.
PIPELINE_TAGS = {
    "semantic-segmentation": "image-segmentation",
    "visual-question-answering": "image-text-to-text",
    "image-text-retrieval": "zero-shot-image-classification",
}


def is_ours(result: EvalResult) -> bool:
    """Whether a result compares a dense and a merged model, and can stand in a table."""
    return result.metric_config in _MODELS and isinstance(result.metric_value, (int, float))


def tables(results: list[EvalResult]) -> list[dict[str, Any]]:
    """One table per task and data set: `heading`, `rows` of what was measured, dense, merged, `gains`, `command`, and
    `explained`: what the reader has to be told of (`"intervals"`, `"means"` over samples, `"times"`).

    What somebody took out of the metadata is missing in it.
    """
    groups = defaultdict(list)
    for result in results:
        groups[result.unique_identifier].append(result)
    return [_table(group) for group in groups.values()]


def _table(group: list[EvalResult]) -> dict[str, Any]:
    about = group[0]
    metrics: dict[str, dict[str, EvalResult]] = defaultdict(dict)
    for result in group:
        metrics[result.metric_type][result.metric_config] = result
    speed, gflops = metrics.pop("speedup", {}).get("merged"), metrics.get("gflops", {})
    explained = [
        *(["intervals"] if any("interval_95" in _args(result.metric_args) for result in group) else []),
        *(["means"] if gflops and not any("num_tokens" in _args(one.metric_args) for one in gflops.values()) else []),
        *(["times"] if "latency" in metrics else []),
    ]
    rows = [(_label(found), *(_cell(found.get(which)) for which in _MODELS)) for found in metrics.values()]
    gains = ""
    if speed and len(gflops) == 2:
        args = _args(speed.metric_args)
        gains = (
            f"{gflops['dense'].metric_value / gflops['merged'].metric_value:.2f}x fewer operations; measured "
            f"{speed.metric_value:.2f}x as fast (quartiles "
            f"{' to '.join(f'{end:.2f}' for end in args.get('quartiles', []))}, batches: {args.get('rounds')}; "
            f"{args.get('hardware')})."
        )
    args = _args(about.dataset_args)
    data = " / ".join(part for part in (about.dataset_name, about.dataset_config, about.dataset_split) if part)
    heading = f"{about.task_name} on {data}, {args.get('num_samples')} samples:"
    command = args.get("command")
    return {"heading": heading, "rows": rows, "gains": gains, "command": command, "explained": explained}


def _label(found: dict[str, EvalResult]) -> str:
    result = next(iter(found.values()))
    name = (result.metric_name or result.metric_type).removesuffix(f", {result.metric_config}")
    args = _args(result.metric_args)
    if "interval_95" in args:
        return f"{name}, %"
    if "inputs" in args:
        return f"{name} on {args['inputs']}"
    if "num_tokens" in args:
        return f"{name}, counted at {args['num_tokens']} tokens"
    return f"{name} of {args['batch_size']}" if "batch_size" in args else name


def _cell(result: EvalResult | None) -> str:
    if result is None:
        return ""
    interval = _args(result.metric_args).get("interval_95")
    if interval is None:
        return f"{result.metric_value:.4g}"
    low, high = (100 * end for end in interval)
    return f"{100 * result.metric_value:.2f} [{low:.1f}, {high:.1f}]"


def _args(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}
