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

"""Weights of a checkpoint that the `Trainer` resumes from.

transformers 5 saves renamed modules (ViT, DINOv2, ...) under their old names and translates them in `from_pretrained`.
`Trainer` reads the file without translating: resuming, and loading the best model at the end, then leave the weights
as they are, with a warning. (So in 5.13 to 5.23, without this package, too.)
"""

from __future__ import annotations

import functools
import os
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.utils import SAFE_WEIGHTS_NAME, logging


logger = logging.get_logger(__name__)


def repair_loading(trainer: Trainer) -> None:
    """Lets `trainer` find weights under their old names."""

    def wrap(name: str, folder_of) -> None:
        original = getattr(trainer, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any):
            result = original(*args, **kwargs)
            load_renamed(trainer.model, folder_of(*args, **kwargs))
            return result

        setattr(trainer, name, method)

    wrap("_load_from_checkpoint", lambda resume_from_checkpoint, model=None: resume_from_checkpoint)
    wrap("_load_best_model", lambda: trainer.state.best_model_checkpoint)


def load_renamed(model: nn.Module, folder: str | os.PathLike) -> bool:
    """Loads the weights in `folder` into `model` if they have other names there; returns whether they had."""
    path = os.path.join(folder, SAFE_WEIGHTS_NAME)
    if not isinstance(model, PreTrainedModel) or not os.path.isfile(path):
        return False
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    if names <= model.state_dict().keys():
        return False
    translated = type(model).from_pretrained(folder, pitome=False, dtype=model.dtype)
    model.load_state_dict(translated.state_dict())
    logger.info(f"The weights in {folder} have other names than the model's. They were translated and loaded.")
    return True
