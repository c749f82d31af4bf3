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

"""Evaluations as the `model-index` of a card's metadata, and the tables that are read back from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from huggingface_hub import EvalResult

from ..evaluation.results import GFLOPS_TITLE, Evaluation, metric_title


@dataclass(frozen=True)
class Table:
    """One evaluation, as it stands in the text of a card."""

    heading: str
    rows: list[tuple[str, str, str]]
    gains: str
    command: str | None


def eval_results(evaluation: Evaluation) -> list[EvalResult]:
    """The results under `model-index`: `metric_config` says whether a value is of the dense or of the merged model.

    `evaluation.source` must name `task` and `dataset`.
    """
    source, timing = evaluation.source, evaluation.timing
    arguments = {"num_samples": evaluation.num_samples, "command": source.get("command")}
    task = source["task"]
    about = {
        "task_type": task,
        "task_name": task.replace("-", " ").capitalize(),
        "dataset_type": source["dataset"],
        "dataset_name": source["dataset"],
        "dataset_config": source.get("config"),
        "dataset_split": source.get("split"),
        "dataset_args": {name: value for name, value in arguments.items() if value is not None},
    }

    def result(metric: str, name: str, which: str, value: float, digits: int, **details) -> EvalResult:
        return EvalResult(
            **about,
            metric_type=metric,
            metric_name=name,
            metric_config=which,
            metric_value=round(value, digits),
            metric_args=details or None,
        )

    results = []
    for metric in evaluation.metrics:
        name = metric_title(metric)
        name = name[0].upper() + name[1:]
        for which, scores in (("merged", evaluation.merged), ("dense", evaluation.dense)):
            results.append(result(metric, f"{name}, {which}", which, scores[metric], 4, **_interval(scores, metric)))
    agreement = evaluation.agreement
    interval = _interval(agreement, "agreement")
    results.append(
        result("agreement", "Same answer as the dense model", "merged", agreement["agreement"], 4, **interval)
    )
    for which, gflops in (("merged", evaluation.gflops_merged), ("dense", evaluation.gflops_dense)):
        results.append(result("gflops", f"{GFLOPS_TITLE[0].upper()}{GFLOPS_TITLE[1:]}, {which}", which, gflops, 6))
    for which, milliseconds in (("merged", timing.merged_ms), ("dense", timing.dense_ms)):
        size = evaluation.batch_size
        name = f"Milliseconds per batch, {which}"
        results.append(result("latency", name, which, milliseconds, 3, batch_size=size))
    details = {"quartiles": [round(timing.speedup_low, 3), round(timing.speedup_high, 3)], "rounds": timing.rounds}
    details["hardware"] = evaluation.hardware
    results.append(result("speedup", "Measured speed-up", "merged", timing.speedup, 3, **details))
    return results


def pipeline_tag(task: str) -> str:
    """The Hub's tag for models that do `task`: where it names pipelines, not evaluations."""
    tags = {
        "visual-question-answering": "image-text-to-text",
        "image-text-retrieval": "zero-shot-image-classification",
    }
    return tags.get(task, task)


def merged_results(old: list[EvalResult], new: list[EvalResult]) -> list[EvalResult]:
    """Both, where the new ones take the place of old ones of the same task and data."""
    replaced = {result.unique_identifier for result in new}
    return [result for result in old if result.unique_identifier not in replaced] + new


def tables(results: list[EvalResult]) -> list[Table]:
    """One table per task and data set."""
    groups: dict[tuple, dict[tuple[str, str], EvalResult]] = defaultdict(dict)
    for result in results:
        groups[result.unique_identifier][result.metric_type, result.metric_config] = result
    return [_table(group) for group in groups.values()]


def _table(group: dict[tuple[str, str], EvalResult]) -> Table:
    some = group["gflops", "merged"]
    metrics = [metric for metric, which in group if which == "dense" and metric not in ("gflops", "latency")]
    where = [some.dataset_name, *(part for part in (some.dataset_config, some.dataset_split) if part)]
    dense, merged = group["gflops", "dense"].metric_value, group["gflops", "merged"].metric_value
    speed, latency = group["speedup", "merged"], group["latency", "merged"]
    low, high = speed.metric_args["quartiles"]
    rows = [
        *(
            (f"{metric_title(metric)}, %", *(_percent(group[metric, which]) for which in ("dense", "merged")))
            for metric in metrics
        ),
        ("same answer as the dense model, %", "", _percent(group["agreement", "merged"])),
        (GFLOPS_TITLE, f"{dense:.4g}", f"{merged:.4g}"),
        (
            f"ms per batch of {latency.metric_args['batch_size']}",
            f"{group['latency', 'dense'].metric_value:.4g}",
            f"{latency.metric_value:.4g}",
        ),
    ]
    gains = (
        f"{dense / merged:.2f}x fewer operations; measured {speed.metric_value:.2f}x as fast (quartiles {low:.2f} to "
        f"{high:.2f}, batches: {speed.metric_args['rounds']}; {speed.metric_args['hardware']})."
    )
    heading = f"{some.task_name} on {' / '.join(where)}, {some.dataset_args['num_samples']} samples:"
    return Table(heading, rows, gains, some.dataset_args.get("command"))


def _interval(scores: dict[str, float], name: str) -> dict[str, list[float]]:
    return {"interval_95": [round(scores[f"{name}_low"], 4), round(scores[f"{name}_high"], 4)]}


def _percent(result: EvalResult) -> str:
    low, high = (100 * end for end in result.metric_args["interval_95"])
    return f"{100 * result.metric_value:.2f} [{low:.1f}, {high:.1f}]"
