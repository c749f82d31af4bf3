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

"""What models and evaluations say about themselves, as plain data for their cards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from transformers.utils import logging

from ..analysis import pitome_summary
from ..analysis.report import PiToMeSummary
from ..analysis.timing import Timing
from ..cards.card import hub_id, write_recipe_section, write_section
from ..configuration.config import PiToMeConfig
from ..evaluation.results import GFLOPS_TITLE, Evaluation, metric_title
from ..tuning.choice import Choice
from ..tuning.found import Found
from .entries import entries


logger = logging.get_logger(__name__)

#: Metric, its name, of which model, its value, and what else there is to say.
_Row = tuple[str, str, str, float, dict[str, Any] | None]


def write_card(
    model: Any,
    directory: str | os.PathLike,
    repository: str | None = None,
    evaluations: list[Evaluation] | None = None,
    name: str | None = None,
    base_model: str | list[str] | None = None,
    saved: bool = True,
    provenance: str | None = None,
    exported: str | None = None,
    place: str | None = None,
) -> Path | None:
    """Writes how `model` merges into `README.md` in `directory`; of a dense model, takes out what was said there.

    Args:
        model: a model of transformers.
        directory (`str` or `os.PathLike`): a folder, or the file itself (`.md`).
        repository (`str`, *optional*): Hub id that the card is for.
        evaluations (`list[Evaluation]`, *optional*): what was measured on the model as it is.
        name (`str`, *optional*): what the title calls the model; defaults to `repository`, else to its class.
        base_model (`str` or `list[str]`, *optional*):
            Hub id of what it was made from (of several parts: their ids); defaults to what the card says, else to
            where the model was loaded from.
        saved (`bool`, *optional*, defaults to `True`):
            Whether the settings are in the `config.json` that goes with the card; else the card says how to pass them.
        provenance (`str`, *optional*): where the weights come from, in a sentence or two.
        exported (`str`, *optional*): of what is no checkpoint: which file of the folder it is, and for which runtime.
        place (`str`, *optional*): what loads it where there is no repository: the name of a folder.

    Returns:
        `pathlib.Path` of the card, or `None` for a dense model.
    """
    found = {part: PiToMeConfig.from_value(value) for part, value in entries(model.config)}
    settings = {part: config.to_pitome_dict() for part, config in found.items() if config is not None}
    if not settings:
        return write_section(directory, {})
    num_tokens = evaluations[-1].num_tokens if evaluations else None
    if num_tokens is not None and len(num_tokens) == 1:
        (num_tokens,) = num_tokens
    try:
        summary = str(pitome_summary(model, num_tokens))
    except ValueError as error:  # no default sequence length: a card without the table is still a card
        logger.info(f"The model card has no summary: {error}")
        summary = ""
    loaded_from = hub_id(model.config.name_or_path)
    return write_section(
        directory,
        settings.get("", settings),
        _results(evaluations),
        base_model=base_model,
        loaded_from=None if loaded_from == repository else loaded_from,
        title=repository or f"{name or type(model).__name__} with merged tokens",
        auto_class=auto_class_of(model),
        repository=repository or place,
        summary=summary,
        num_tokens=num_tokens,
        parts="" not in settings,
        saved=saved,
        provenance=provenance,
        exported=exported,
    )


def write_recipe_card(
    config: PiToMeConfig,
    directory: str | os.PathLike,
    repository: str | None = None,
    evaluations: list[Evaluation] | None = None,
    auto_class: str = "AutoModel",
    results: list[EvalResult] | None = None,
    place: str | None = None,
) -> Path | None:
    """Writes what the recipe `config` does into `README.md` in `directory`; as [`write_card`], or with the `results`
    of a search."""
    results = [*_results(evaluations), *(results or [])]
    return write_recipe_section(directory, config.to_pitome_dict(), results, repository, auto_class, place)


def search_results(
    found: Found | Choice, summary: PiToMeSummary, source: Mapping[str, str], hardware: str
) -> list[EvalResult]:
    """What a search measured, as [`eval_results`] has it.

    Args:
        found ([`Found`] or [`Choice`]): what [`search_ratios`] or [`find_budget`] found.
        summary ([`PiToMeSummary`]): of the model at these settings.
        source (`Mapping`): as of an [`Evaluation`]; the search ran on these inputs.
        hardware (`str`): of the timing.
    """
    operations = {"merged": summary.gflops_merged + summary.gflops_merge_step, "dense": summary.gflops_dense}
    length = {"num_tokens": summary.tokens[0]}
    rows = [("gflops", GFLOPS_TITLE, which, value, length) for which, value in operations.items()]
    loss = f"mean loss against the dense model ({found.loss_name})"
    if isinstance(found, Choice):
        interval = {"interval_95": [_rounded(found.low), _rounded(found.high)]}
        if found.name == "agreement":
            rows.append(("agreement", "same class as the dense model", "merged", found.value, interval))
        else:
            about = {"inputs": f"{found.num_samples} inputs", "ends_of_95": interval["interval_95"]}
            rows.append(("loss", loss, "merged", found.value, about))
    else:
        inputs = f"{found.num_unseen} inputs that the evolution strategy did not see"
        about = {"inputs": inputs, "profiles": _all_rounded(found.profiles)}
        rows.append(("loss", loss, "merged", found.loss, about))
        if found.timing is not None:
            rows += _speed(found.timing, hardware, "milliseconds of the timed batches", None)
    return _as_results(source, found.num_samples, rows)


def _all_rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _rounded(value) for name, value in values.items()}


def _results(evaluations: list[Evaluation] | None) -> list[EvalResult]:
    return [result for evaluation in evaluations or [] for result in eval_results(evaluation)]


def eval_results(evaluation: Evaluation) -> list[EvalResult]:
    """The results under `model-index`: `metric_config` says whether a value is of the dense or of the merged model.

    None where `evaluation.source` does not name `task` and `dataset`: numbers alone say nothing to a reader.
    """
    if not {"task", "dataset"} <= evaluation.source.keys():
        return []
    agreement, batch = evaluation.agreement, {"batch_size": evaluation.batch_size}
    found = [
        *(
            (metric, metric_title(metric), which, scores[metric], _interval(scores, metric))
            for metric in evaluation.metrics
            for which, scores in (("merged", evaluation.merged), ("dense", evaluation.dense))
        ),
        ("agreement", "same answer as the dense model", "merged", agreement["agreement"], _interval(agreement)),
        ("gflops", GFLOPS_TITLE, "merged", evaluation.gflops_merged, None),
        ("gflops", GFLOPS_TITLE, "dense", evaluation.gflops_dense, None),
        *_speed(evaluation.timing, evaluation.hardware, "milliseconds per batch", batch),
    ]
    return _as_results(evaluation.source, evaluation.num_samples, found)


def _speed(timing: Timing, hardware: str, what: str, batch: dict[str, int] | None) -> list[_Row]:
    speed = {"quartiles": [_rounded(timing.speedup_low), _rounded(timing.speedup_high)], "rounds": timing.rounds}
    return [
        ("latency", what, "merged", timing.merged_ms, batch),
        ("latency", what, "dense", timing.dense_ms, batch),
        ("speedup", "measured speed-up", "merged", timing.speedup, {**speed, "hardware": hardware}),
    ]


def _as_results(source: Mapping[str, str], num_samples: int, rows: list[_Row]) -> list[EvalResult]:
    arguments = {"num_samples": num_samples, "command": source.get("command")}
    about = {
        "task_type": source["task"],
        "task_name": source["task"].replace("-", " ").capitalize(),
        "dataset_type": source["dataset"],
        "dataset_name": source["dataset"],
        "dataset_config": source.get("config"),
        "dataset_split": source.get("split"),
        "dataset_args": {name: value for name, value in arguments.items() if value is not None},
    }
    return [
        EvalResult(
            **about,
            metric_type=metric,
            metric_name=f"{name[0].upper()}{name[1:]}, {which}",
            metric_config=which,
            metric_value=_rounded(value),
            metric_args=details,
        )
        for metric, name, which, value, details in rows
    ]


def _interval(scores: dict[str, float], name: str = "agreement") -> dict[str, list[float]]:
    return {"interval_95": [_rounded(scores[f"{name}_low"]), _rounded(scores[f"{name}_high"])]}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def auto_class_of(model: Any) -> str:
    """The auto class that loads `model`."""
    from transformers.models.auto import modeling_auto

    # The same class may be there for pre-training, too: that is not what people load it for.
    for name in sorted(vars(modeling_auto), key="AutoModelForPreTraining".__eq__):
        mapping = getattr(getattr(modeling_auto, name), "_model_mapping", None)
        if name.startswith("Auto") and mapping is not None and type(model.config) in mapping:
            classes = mapping[type(model.config)]
            if type(model) in (classes if isinstance(classes, (list, tuple)) else [classes]):
                return name
    return type(model).__name__
