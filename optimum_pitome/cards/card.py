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

"""Model cards: what a rewritten model or a recipe says about itself, and whose card may be rewritten.

The results of evaluations live in the card's metadata (`model-index`); the tables in its text are made from there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from ..configuration.config import PiToMeConfig
from ..evaluation.results import Evaluation
from .tables import eval_results, merged_results, pipeline_tag, tables


logger = logging.get_logger(__name__)

TAG = "pitome"

#: Last line of the cards written here. While the code fits the rest of the card, nobody has edited it.
_SEAL = "<!-- optimum_pitome {}: this card was generated. It is written anew until you edit it; then it is yours. -->"
_SEAL_PATTERN = re.compile(_SEAL.replace("{}", "([0-9a-f]{16})"))
_SETTINGS_PATTERN = re.compile(r"^## Settings\n\n```json\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


@dataclass
class _Content:
    """What goes into a card."""

    title: str
    auto_class: str
    settings: dict[str, Any]
    recipe: bool
    base_model: str | list[str] | None = None
    repository: str | None = None
    summary: str = ""
    num_tokens: int | list[int] | None = None
    task: str | None = None
    saved: bool = True
    provenance: str | None = None
    results: list[EvalResult] = field(default_factory=list)
    tags: list[str] = field(default_factory=lambda: [TAG])

    def render(self) -> ModelCard:
        data = ModelCardData(
            library_name="transformers",
            tags=self.tags,
            base_model=self.base_model,
            pipeline_tag=self.task,
            eval_results=self.results or None,
            model_name=(self.repository or self.title) if self.results else None,
        )
        card = ModelCard.from_template(
            data,
            template_str=resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8"),
            title=self.title,
            auto_class=self.auto_class,
            repository=json.dumps(self.repository or "path/or/id"),
            keyword=None if self.saved else _keyword(self.settings),
            settings=json.dumps(self.settings, indent=2),
            evaluations=tables(self.results),
            summary=self.summary,
            num_tokens=self.num_tokens,
            recipe=self.recipe,
            provenance=self.provenance,
        )
        text = re.sub(r"\n{3,}", "\n\n", card.text).strip("\n")
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n\n{_SEAL.format(_fingerprint(card))}\n")


def write_card(
    model: Any,
    directory: str | os.PathLike,
    repository: str | None = None,
    evaluations: list[Evaluation] | None = None,
    name: str | None = None,
    base_model: str | list[str] | None = None,
    saved: bool = True,
    provenance: str | None = None,
) -> Path | None:
    """Writes `README.md` for a rewritten model into `directory`, or brings it up to date. What somebody wrote stays.

    Args:
        model: a rewritten model.
        directory (`str` or `os.PathLike`): a folder, or the file itself (`.md`).
        repository (`str`, *optional*): Hub id that the card is for.
        evaluations (`list[Evaluation]`, *optional*): to add to it; they hold for the model as it is.
        name (`str`, *optional*): what the title calls the model; defaults to `repository`, else to its class.
        base_model (`str` or `list[str]`, *optional*):
            Hub id of what it was made from (of several parts: their ids); defaults to where it was loaded from.
        saved (`bool`, *optional*, defaults to `True`):
            Whether the settings are in the `config.json` that goes with the card; else the card says how to pass them.
        provenance (`str`, *optional*): where the weights come from, in a sentence or two.

    Returns:
        `pathlib.Path`, or `None` if there is a card that somebody wrote or edited, or that is up to date.
    """
    from ..analysis import pitome_summary

    evaluations = evaluations or []
    num_tokens = evaluations[-1].num_tokens if evaluations else None
    if num_tokens is not None and len(num_tokens) == 1:
        (num_tokens,) = num_tokens
    try:
        summary = str(pitome_summary(model, num_tokens))
    except ValueError as error:  # no default sequence length: a card without the table is still a card
        logger.info(f"The model card has no summary: {error}")
        summary = ""
    content = _Content(
        title=repository or f"{name or type(model).__name__} with merged tokens",
        auto_class=_auto_class(model),
        settings=PiToMeConfig.from_value(model.config.pitome).to_pitome_dict(),
        recipe=False,
        base_model=base_model or _hub_id(model.config.name_or_path),
        repository=repository,
        summary=summary,
        num_tokens=num_tokens,
        saved=saved,
        provenance=provenance,
    )
    return _save(content, directory, evaluations)


def write_recipe_card(
    config: PiToMeConfig,
    directory: str | os.PathLike,
    repository: str | None = None,
    evaluations: list[Evaluation] | None = None,
    auto_class: str = "AutoModel",
) -> Path | None:
    """Writes `README.md` for a recipe into `directory`, or brings it up to date; as [`write_card`]."""
    base, settings = config.base_model_name_or_path, config.to_pitome_dict()
    if _hub_id(base) is None:
        settings.pop("base_model_name_or_path")
    content = _Content(
        title=repository or f"PiToMe recipe for {_hub_id(base) or Path(base).name}",
        auto_class=auto_class,
        settings=settings,
        recipe=True,
        base_model=_hub_id(base),
        repository=repository,
    )
    return _save(content, directory, evaluations or [])


def may_write(path: str | os.PathLike) -> bool:
    """Whether there is no card that somebody wrote or edited."""
    path = _file(path)
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        return True
    card = _read(path)
    return card is not None and is_generated(card)


def is_generated(card: ModelCard) -> bool:
    """Whether nobody has edited `card`: it is one of ours, or what transformers makes when it pushes."""
    seal = _SEAL_PATTERN.search(card.text)
    if seal is not None:
        return seal.group(1) == _fingerprint(card)
    before, after = _generic_card()
    text = card.text.strip()
    return text.startswith(before) and text.endswith(after)


def _save(content: _Content, directory: str | os.PathLike, evaluations: list[Evaluation]) -> Path | None:
    path = _file(directory)
    evaluations = [evaluation for evaluation in evaluations if {"task", "dataset"} <= evaluation.source.keys()]
    for evaluation in evaluations:
        content.results = merged_results(content.results, eval_results(evaluation))
        content.task = pipeline_tag(evaluation.source["task"])
    if content.base_model == content.repository:  # loaded from where it goes
        content.base_model = None
    if not may_write(path):
        return None
    old = _read(path) if path.exists() else None
    if old is not None:
        settings = _SETTINGS_PATTERN.search(old.text)
        if settings is not None and json.loads(settings.group(1)) == content.settings:
            if not evaluations:
                return None
            content.results = merged_results(old.data.eval_results or [], content.results)
        content.tags = list(dict.fromkeys([*(old.data.tags or []), *content.tags]))
        content.base_model = content.base_model or old.data.base_model
    content.render().save(path)
    return path


def _keyword(settings: dict[str, Any]) -> str:
    """What `pitome=` takes for them."""
    settings = {name: value for name, value in settings.items() if name != "format_version"}
    return repr(settings["ratio"] if settings.keys() == {"ratio"} else settings)


def _file(path: str | os.PathLike) -> Path:
    return Path(path) if str(path).endswith(".md") else Path(path) / "README.md"


def _read(path: Path) -> ModelCard | None:
    """The card, unless it has no metadata that can be read: then it is not one of ours."""
    text = path.read_text(encoding="utf-8")
    try:
        return ModelCard(text) if text.startswith("---") else None
    except (ValueError, yaml.YAMLError):
        return None


def _fingerprint(card: ModelCard) -> str:
    """Changes with any edit but not with blank lines, nor with the tags, which transformers adds to when it pushes."""
    data = {name: value for name, value in card.data.to_dict().items() if name != "tags"}
    lines = [line.rstrip() for line in _SEAL_PATTERN.sub("", card.text).splitlines() if line.strip()]
    return hashlib.sha256(json.dumps([data, lines], sort_keys=True, default=str).encode()).hexdigest()[:16]


@functools.cache
def _generic_card() -> tuple[str, str]:
    """The text around the description in the card that transformers pushes where there is none."""
    text = ModelCard.from_template(ModelCardData(), model_description="DESCRIPTION").text
    before, _, after = text.strip().partition("DESCRIPTION")
    return before, after


def _auto_class(model: Any) -> str:
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


def _hub_id(name: str | None) -> str | None:
    """`name` if it can be a repository on the Hub; a local path says nothing to others."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name
