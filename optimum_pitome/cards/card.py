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

"""The section of a model card that says how a model merges: ours between two markers, in whatever card there is.

What stands outside the markers is somebody's, and stays. The results of evaluations live in the card's metadata
(`model-index`); the tables in the section are made from there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from .tables import PIPELINE_TAGS, is_ours, tables


logger = logging.get_logger(__name__)

TAG = "pitome"
#: In a repository with something else, exports lie in a folder of this name, each in one that its format names.
EXPORTS = "exported"

_START, _END = "<!-- pitome:start", "<!-- pitome:end -->"
#: Without another start inside: where somebody deleted an end, nothing of theirs is taken for the section.
_SECTION = re.compile(rf"{_START}(?:(?!{_START}).)*?{_END}", re.DOTALL)
_WITH_BLANK_LINE = re.compile(rf"\n?{_SECTION.pattern}\n?", re.DOTALL)
_EXPORTS = re.compile(r"<!-- pitome:exports -->.*?<!-- pitome:exports end -->\n\n", re.DOTALL)
_SETTINGS = re.compile(r"```json\s(.*?)```", re.DOTALL)


def write_section(
    directory: str | os.PathLike,
    settings: dict[str, Any],
    results: list[EvalResult] | None = None,
    base_model: str | list[str] | None = None,
    loaded_from: str | None = None,
    **about: Any,
) -> Path | None:
    """Writes the section into `README.md` in `directory`: at its end, or in the place of an older section.

    Metadata is added to what is there; where it cannot be read, it stays as it is. A section with the same settings
    stays, too, unless there are new results. Old results stay as long as the settings do.

    Args:
        directory (`str` or `os.PathLike`): a folder, or the file itself (`.md`).
        settings (`dict`): how the model merges. Empty: it is dense, and a section that is there is taken out.
        results (`list[EvalResult]`, *optional*): new ones.
        base_model (`str` or `list[str]`, *optional*): Hub id of what the model was made from.
        loaded_from (`str`, *optional*): the same, for a card that names no base model.
        about (*optional*): what else `model_card.md` asks for.

    Returns:
        `pathlib.Path`, or `None` if there is no section.
    """
    path = Path(directory) if str(directory).endswith(".md") else Path(directory) / "README.md"
    # Bytes that are not UTF-8 come back as they were.
    old = path.read_bytes().decode("utf-8-sig", "surrogateescape") if path.is_file() else ""
    block = REGEX_YAML_BLOCK.match(old)
    head = block.group() if block else ""
    text = old[len(head) :]
    found = _SECTION.search(text)
    if not settings and found is None:
        return None
    if found is None and _is_blank(text):
        text = ""
    card = _metadata(head)
    data = ModelCardData() if card is None else card.data
    before = data.to_dict()
    changed = found is None or _settings_in(found.group()) != settings
    ours = _update_results(data, results or [], changed)
    if settings:
        data.tags = list(dict.fromkeys([*(data.tags or []), TAG]))
        data.library_name = data.library_name or "transformers"
        data.base_model = base_model or data.base_model or loaded_from
        if ours:
            task = ours[-1].task_type
            data.pipeline_tag = data.pipeline_tag or PIPELINE_TAGS.get(task, task)
            data.model_name = data.model_name or about.get("title")
        if changed or results:
            if (path.parent / "adapter_config.json").exists():  # PEFT saves no configuration of the model below
                about["saved"] = False
            text = _put(text, lambda alone: _render(settings, ours, alone, **about))
    else:
        data.tags = [tag for tag in data.tags or [] if tag != TAG] or None
        text = _WITH_BLANK_LINE.sub("", text)
    if card is not None and data.to_dict() != before:
        card.text = text
        new = str(card)
    else:
        new = f"{head}{text}"
    if new != old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(new.encode("utf-8", "surrogateescape"))
    return path if settings else None


def write_recipe_section(
    directory: str | os.PathLike,
    settings: dict[str, Any],
    results: list[EvalResult] | None = None,
    repository: str | None = None,
    auto_class: str = "AutoModel",
    place: str | None = None,
) -> Path | None:
    """As [`write_section`], for a repository without weights: `settings` name the model that it loads. Without a
    `repository` the example loads it from `place`, by default the name of the folder."""
    if place is None and not str(directory).endswith(".md"):
        place = Path(directory).resolve().name
    name = settings["base_model_name_or_path"]
    base_model = hub_id(name)
    shown = base_model or Path(name).name
    if base_model is None:
        settings = {key: value for key, value in settings.items() if key != "base_model_name_or_path"}
    return write_section(
        directory,
        settings,
        results,
        base_model=base_model,
        title=repository or f"PiToMe recipe for {shown}",
        auto_class=auto_class,
        repository=repository or place,
        recipe=True,
        recipe_of=shown,
    )


def with_exports(card: str, formats: Sequence[str], repository: str) -> str:
    """A card whose section says which files were exported beside what it is about. Without a section, it stays.

    Args:
        card (`str`): the whole text.
        formats (`Sequence[str]`): such as `"onnx"`; each lies in a folder of its own name below `exported`.
        repository (`str`): Hub id or folder, for the example.
    """
    found = _SECTION.search(card)
    if found is None:
        return card
    places = ", ".join(f"[`{EXPORTS}/{name}`]({EXPORTS}/{name})" for name in formats)
    load = f"load_exported({json.dumps(repository)}, format={json.dumps(formats[0])})"
    text = (
        f"<!-- pitome:exports -->\nFiles for other runtimes lie in {places}; the card in each folder says how it "
        f"merges. `optimum_pitome.{load}` loads one.\n<!-- pitome:exports end -->\n\n"
    )
    section = _EXPORTS.sub("", found.group()).replace(_END, f"{text}{_END}")
    return f"{card[: found.start()]}{section}{card[found.end() :]}"


def hub_id(name: str | None) -> str | None:
    """`name` if it can be a repository on the Hub; a local path says nothing to others."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _is_blank(text: str) -> bool:
    """Whether `text` is what transformers pushes where there is no card: questions that nobody has answered."""
    before, _, after = ModelCard.from_template(ModelCardData(), model_description="|").text.strip().partition("|")
    return text.strip().startswith(before) and text.strip().endswith(after)


def _metadata(head: str) -> ModelCard | None:
    """The card with nothing but its metadata; `None` if that cannot be read."""
    try:
        return ModelCard(head or "---\n{}\n---\n")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        logger.warning(f"The metadata of the model card cannot be read, and stays as it is: {error}")
        return None


def _settings_in(section: str) -> Any:
    """The settings that a section names; `None` if somebody edited them beyond recognition."""
    found = _SETTINGS.search(section)
    try:
        return json.loads(found.group(1)) if found else None
    except ValueError:
        return None


def _update_results(data: ModelCardData, new: list[EvalResult], changed: bool) -> list[EvalResult]:
    """Brings the results in the metadata up to date; returns those of ours."""
    found = data.eval_results or []
    replaced = {result.unique_identifier for result in new}  # by others of the same task and data
    stale = [result for result in found if is_ours(result) and (changed or result.unique_identifier in replaced)]
    results = [*(result for result in found if result not in stale), *new]
    if results != found:
        data.eval_results = results or None
        data.model_name = data.model_name if results else None
    return [result for result in results if is_ours(result)]


def _put(text: str, render: Callable[[bool], str]) -> str:
    """`text` with the section in the place of the older one, or at the end; `render` learns if it stands alone."""
    found = _SECTION.search(text)
    if found is not None:
        section = render(not _SECTION.sub("", text).strip())
        return f"{text[: found.start()]}{section}{text[found.end() :]}"
    end_of_line = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{end_of_line}\n{render(not text.strip())}\n"


def _render(settings: dict[str, Any], results: list[EvalResult], alone: bool, saved: bool = True, **about: Any) -> str:
    template = resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    passed = {name: value for name, value in settings.items() if name != "format_version"}
    about |= {
        "heading": "#" if alone else "##",
        "title": about.get("title") if alone else "Token merging",
        "repository": json.dumps(about.get("repository") or "path/or/id"),
        "keyword": None if saved else repr(passed["ratio"] if passed.keys() == {"ratio"} else passed),
        "settings": json.dumps(settings, indent=2),
        "evaluations": tables(results),
    }
    text = jinja2.Template(template, trim_blocks=True, lstrip_blocks=True).render(**about)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")
