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

"""The section of a model card that says how a fine-tuned model merges, for cards that others write (Trainer, PEFT)."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import Trainer

from ..cards.card import TAG
from ..configuration.config import PiToMeConfig


_HEADING = "## Token merging"
_SECTION = re.compile(rf"\n*^{_HEADING}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def describe_adapters(trainer: Trainer) -> None:
    """Lets `trainer` say in the cards of saved adapters (PEFT) how the model below merges.

    An adapter's folder has no configuration of the model: who loads it must name the settings.
    """
    save_model = trainer.save_model

    @functools.wraps(save_model)
    def save_and_describe(output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        save_model(output_dir, *args, **kwargs)
        settings = getattr(getattr(trainer.model, "config", None), "pitome", None)
        path = Path(output_dir or trainer.args.output_dir) / "README.md"
        adapter = (path.parent / "adapter_config.json").exists()
        if adapter and settings and trainer.is_world_process_zero() and path.exists():
            add_settings(path, PiToMeConfig.from_value(settings))

    trainer.save_model = save_and_describe


def add_settings(path: str | os.PathLike, config: PiToMeConfig) -> None:
    """Adds the settings, or brings them up to date, in the card at `path`; tags it `pitome`."""
    card = ModelCard.load(path, ignore_metadata_errors=True)
    settings = json.dumps(config.to_pitome_dict(), indent=2)
    section = (
        f"{_HEADING}\n\nTrained with merged tokens ([PiToMe](https://arxiv.org/abs/2405.16148), package "
        f"`optimum_pitome`). Final settings, for `from_pretrained(..., pitome=...)`:\n\n```json\n{settings}\n```\n"
    )
    card.text = f"{_SECTION.sub('', card.text).rstrip()}\n\n{section}"
    tags = card.data.tags or []
    if TAG not in tags:
        card.data.tags = [*tags, TAG]
    card.save(path)
