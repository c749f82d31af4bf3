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

"""Model cards: what a rewritten model or a recipe says about itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers.utils import logging

from .configuration import PiToMeConfig


logger = logging.get_logger(__name__)

TAG = "pitome"

_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}
{% if recipe %}
A recipe: settings without weights. It loads the model that it names and makes it merge redundant tokens
{% else %}
This model merges redundant tokens between attention and MLP; its weights are those of the dense model
{% endif %}
([PiToMe](https://arxiv.org/abs/2405.16148), with the package `optimum_pitome`).

```python
import optimum_pitome
from transformers import {{ auto_class }}

model = {{ auto_class }}.from_pretrained(repository)                # merges tokens
model = {{ auto_class }}.from_pretrained(repository, pitome=False)  # the dense model
```
{% if not recipe %}
Without `optimum_pitome` it loads as the ordinary dense model.
{% endif %}
## Settings

```json
{{ settings }}
```
{% if summary %}
## Tokens and operations

`pitome_summary(model)`:

```
{{ summary }}
```
{% endif %}"""


def write_card(model: Any, directory: str | os.PathLike) -> Path | None:
    """Writes `README.md` for a rewritten model into `directory`, unless there is one (which somebody wrote by hand).

    Returns:
        `pathlib.Path`, or `None` if a card was there.
    """
    path = Path(directory) / "README.md"
    if path.exists():
        return None
    from .analysis import pitome_summary

    config = PiToMeConfig.from_value(model.config.pitome)
    try:
        summary = str(pitome_summary(model))
    except ValueError as error:  # no default sequence length: a card without the table is still a card
        logger.info(f"The model card has no summary: {error}")
        summary = ""
    title = f"{type(model).__name__} with merged tokens"
    _card(config, model.config.name_or_path, title, _auto_class(model), summary).save(path)
    return path


def write_recipe_card(config: PiToMeConfig, directory: str | os.PathLike) -> Path | None:
    """Writes `README.md` for a recipe into `directory`, unless there is one."""
    path = Path(directory) / "README.md"
    if path.exists():
        return None
    base = config.base_model_name_or_path
    _card(config, base, f"PiToMe recipe for {_hub_id(base) or Path(base).name}", "AutoModel", recipe=True).save(path)
    return path


def _card(config, base_model, title, auto_class, summary="", recipe=False) -> ModelCard:
    data = ModelCardData(library_name="transformers", tags=[TAG], base_model=_hub_id(base_model))
    return ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        title=title,
        auto_class=auto_class,
        settings=json.dumps(config.to_pitome_dict(), indent=2),
        summary=summary,
        recipe=recipe,
    )


def _auto_class(model: Any) -> str:
    """The auto class that loads `model`."""
    from transformers.models.auto import modeling_auto

    for name in vars(modeling_auto):
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
