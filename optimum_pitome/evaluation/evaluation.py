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

"""[`evaluate`]: a model with merged tokens against itself without merging, on the same data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..analysis.loss import refuse_one_batch
from ..analysis.timing import AlternatingTimer, Timing
from ..apply import apply_pitome, pitome_disabled, settings_kept
from ..configuration.checks import BUDGETS
from ..configuration.config import PiToMeConfig
from ..configuration.fields import FIELDS, are_parts
from ..kernels.choice import in_use
from ..modeling.eval_mode import eval_mode
from ..modeling.parts import parts_of, settings_of
from ..modeling.rewrite import rewritten_encoders
from ..modeling.sentences import transformers_model
from .elsewhere import Elsewhere, Way, answered_by, check_elsewhere
from .judges import Judge
from .metrics import paired_difference, share
from .passes import of_all_processes, operations, read_answers
from .results import Evaluation, Evaluations


def evaluate(
    model: nn.Module,
    data: Iterable[Mapping[str, Any]],
    judge: Judge | None = None,
    *,
    ratios: Any = None,
    runtimes: Sequence[Elsewhere] = (),
    total: int | None = None,
    warmup: int = 1,
    source: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Evaluations:
    """Runs a model dense and at one or several settings over the same batches: what merging keeps, costs and saves.

    While a batch is in memory, the dense model and all settings run on it, one after the other in changing order, so
    that a machine that slows down slows all of them. The model comes back as it was, dense or rewritten.

    ```python
    found = evaluate(model, batches, ratios=[0.95, 0.9, 0.85])
    print(found)
    found.to_json("found.json")
    found.plot("found.png")
    ```

    In several processes (`accelerate launch`) each passes batches of its own, and gets the results of all.

    Args:
        model (`torch.nn.Module`):
            a transformers model, dense or rewritten. Of one of sentence-transformers, the transformers model in it is
            evaluated: pass batches of its tokenizer.
        data:
            batches, read once: the model's inputs, which are moved to its device, and what the judge knows the right
            answers by, such as `labels`. Without labels, agreement with the dense model is measured.
        judge ([`~evaluation.judges.Judge`], *optional*):
            Found from the first batch: `labels` (classes), `captions` (retrieval), neither (classes of a model with a
            head, else nearest neighbours). For questions (`answers`), pass `AnswerJudge(model, processor)`.
        ratios (*optional*):
            What `pitome=` takes (a ratio, `dict` or [`PiToMeConfig`]), a list of it, or a mapping of it from the names
            that tables are to show, which are no fields and no parts of the model. Defaults to the settings that the
            model has.
        runtimes (`Sequence`, *optional*):
            What [`~optimum_pitome.export.runtimes.runtimes`] returns: the dense model and all settings also run there,
            in other runtimes or with int8 weights. All are compared with the dense model in PyTorch.
        total (`int`, *optional*): number of batches, for the progress bar.
        warmup (`int`, *optional*, defaults to 1): rounds on the first batch that are not timed.
        source (`dict[str, str]`, *optional*): kept in the result: `task`, `dataset`, `config`, `split`, `command`.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        [`Evaluations`], a sequence with one [`Evaluation`] for each of the settings; then, for each of `runtimes`, of
        the dense model and of each of the settings there.

    Raises:
        ValueError: if there are no batches, the settings do not fit the model, or it is dense and there are none; or
            if it cannot run in one of `runtimes`.
    """
    model = transformers_model(model)
    settings = _named(ratios, model)
    refuse_one_batch(data)
    with eval_mode(model), settings_kept(model):
        return _Run(model, settings, runtimes, warmup).over(data, judge, total, progress, dict(source or {}))


class _Run:
    def __init__(
        self, model: nn.Module, settings: dict[str, PiToMeConfig | None], runtimes: Sequence[Elsewhere], warmup: int
    ):
        self.model = model
        self.layers: dict[nn.Module, nn.Module] = {}
        for config in settings.values():  # what does not fit is refused before anything is read
            for encoder in self.apply(config):
                self.layers[encoder] = encoder.pitome.architecture.find_layers(encoder)[0]
        named = {name or _name(settings_of(model).to_pitome_dict(), {}): config for name, config in settings.items()}
        self.ways = [Way("dense", None, merges=False), *(Way(name, config) for name, config in named.items())]
        if runtimes:
            check_elsewhere(model)
        self.ways += [dataclasses.replace(way, elsewhere=one) for one in runtimes for way in list(self.ways)]
        contexts = [functools.partial(self._asking, way) for way in self.ways]
        self.timer = AlternatingTimer(contexts, warmup, device=next(model.parameters()).device)

    def apply(self, config: PiToMeConfig | None) -> list[nn.Module]:
        """Gives the model the settings. Returns the rewritten encoders."""
        if config is not None:
            apply_pitome(self.model, config)
        encoders = rewritten_encoders(self.model)
        if not encoders:
            raise ValueError(
                f"This {type(self.model).__name__} is dense: there is nothing to compare. Pass ratios=0.9 (or "
                "several, ratios=[0.95, 0.9]), or rewrite it first: apply_pitome(model, 0.9)."
            )
        return encoders

    @contextlib.contextmanager
    def _set_to(self, way: Way) -> Iterator[None]:
        if way.merges:
            self.apply(way.config)
        with contextlib.nullcontext() if way.merges else pitome_disabled(self.model):
            yield

    @contextlib.contextmanager
    def _asking(self, way: Way) -> Iterator[None]:
        with self._set_to(way), answered_by(self.model, way.forward):
            yield

    def _load(self, batch: Mapping[str, Any]) -> None:
        for way in self.ways:
            with self._set_to(way):
                way.load(self.model, batch)

    def over(self, data, judge: Judge | None, total: int | None, progress: bool, source: dict) -> Evaluations:
        data = logging.tqdm(data, total=total, desc="Evaluating dense and merged", disable=not progress)
        read = read_answers(self.model, data, judge, self.layers.values(), self.timer.run, self._load)
        judge, references, lengths = read.judge, read.references, read.lengths
        dense_seconds, *other_seconds = map(of_all_processes, self.timer.seconds)
        about = {"num_samples": len(lengths), "batch_size": read.batch_size, "agreement_title": judge.agreement}
        about |= {"hardware": hardware_of(self.model), "source": source}
        with pitome_disabled(self.model):
            dense = judge.decide(read.answers[0], references)
        dense_scores = judge.scores(dense, references) if references else {}
        found = []
        for way, of_way, seconds in zip(self.ways[1:], read.answers[1:], other_seconds):
            with self._set_to(way):
                merged = judge.decide(of_way, references)
            scores = judge.scores(merged, references) if references else {}
            where = way.elsewhere
            evaluation = Evaluation(
                name=way.name,
                settings=self._settings_of(way),
                dense=_all(share(metric, values) for metric, values in dense_scores.items()),
                merged=_all(share(metric, values) for metric, values in scores.items()),
                difference=_all(paired_difference(key, dense_scores[key], values) for key, values in scores.items()),
                agreement=share("agreement", list(map(judge.agree, merged, dense))),
                kept=_all(share(metric, values) for metric, values in judge.kept(merged, dense).items()),
                timing=Timing.of(dense_seconds, seconds),
                **self._operations(way, lengths),
                **({} if where is None else {"runtime": where.runtime, "quantize": where.quantize}),
                **about,
            )
            found.append(evaluation)
        return Evaluations(tuple(found))

    def _settings_of(self, way: Way) -> dict[str, Any]:
        if not way.merges:
            return {}
        return (way.config or settings_of(self.model)).to_pitome_dict()

    def _operations(self, way: Way, lengths: list[tuple[int, ...]]) -> dict[str, Any]:
        """Of the dense model those without merging, of the encoders that the first settings are about."""
        encoders = self.apply(way.config if way.merges else self.ways[1].config)
        found = operations(self.model, Counter(map(self._picker(encoders), lengths)))
        if not way.merges:
            found |= {"gflops_merged": found["gflops_dense"], "tokens_left": found["num_tokens"]}
        return found

    def _picker(self, encoders: list[nn.Module]) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
        """From the lengths of all encoders to those that merge at the settings at hand."""
        places = [list(self.layers).index(encoder) for encoder in encoders]
        return lambda lengths: tuple(lengths[place] for place in places)


def _named(ratios: Any, model: nn.Module) -> dict[str, PiToMeConfig | None]:
    """The settings by the names that tables show; `None`, under no name, for those of the model."""
    if ratios is None:
        return {"": None}
    if isinstance(ratios, Mapping) and not {*FIELDS, *parts_of(model)} & ratios.keys() and _are_several(ratios):
        return {str(name): _config(value) for name, value in ratios.items()}
    several = ratios if isinstance(ratios, (list, tuple)) else [ratios]
    configs = [_config(value) for value in several]
    if not configs:
        raise ValueError("ratios=[] names no settings: pass one ratio or several, such as [0.95, 0.9].")
    settings = [config.to_pitome_dict() for config in configs]
    common = {key: value for key, value in settings[0].items() if all(one.get(key) == value for one in settings)}
    return {_name(one, common if len(several) > 1 else {}): config for one, config in zip(settings, configs)}


def _are_several(ratios: Mapping[Any, Any]) -> bool:
    """Whether the values are settings, under names which may look like a field; else it is one that is misspelt."""
    return are_parts(ratios) or any(isinstance(value, (Mapping, PiToMeConfig)) for value in ratios.values())


def _config(value: Any) -> PiToMeConfig:
    config = PiToMeConfig.from_value(value)
    if config is None:
        raise ValueError(f"ratios: {value!r} is the dense model, which is in every evaluation. Leave it out.")
    return config


def _name(settings: Mapping[str, Any], common: Mapping[str, Any]) -> str:
    """The ratio or budget, and what else the settings do not have in common."""
    hidden = {"format_version", *common} - set(BUDGETS)
    shown = {key: value for key, value in settings.items() if key not in hidden}
    return ", ".join(str(value) if key == "ratio" else f"{key}={value}" for key, value in shown.items()) or "defaults"


def _all(shares: Iterable[dict[str, float]]) -> dict[str, float]:
    return {key: value for one in shares for key, value in one.items()}


def hardware_of(model: nn.Module) -> str:
    """Device, dtype, threads, and kernels that merge, as tables and cards tell them."""
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        where = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} threads"
    else:
        where = device.type
    kernels = "" if in_use(device) is None else f", merging kernels in {in_use(device).capitalize()}"
    return f"{where}, {str(dtype).removeprefix('torch.')}{kernels}"
