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

"""A model before its weights are there: built on the meta device, to see whether settings fit."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..configuration.config import configurations


logger = logging.get_logger(__name__)

#: What fills weights with numbers, which takes half of the time of building a model and is not needed here.
_FILLING = frozenset(
    {name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")}
    | {"fill_", "normal_", "uniform_", "zero_"}
)


class _WithoutNumbers(TorchFunctionMode):
    """Inside, in this thread, tensors are not filled; numbers that a model computes its settings from stay real."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", None) in _FILLING:
            return args[0] if args else kwargs["tensor"]
        if function is torch.linspace:  # the rates of stochastic depth, read with .item()
            kwargs = {"device": "cpu", **kwargs}
        return function(*args, **kwargs)


def preview(model_class: type[nn.Module], config: PreTrainedConfig, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The model that `from_pretrained` is about to build, on the meta device; `None` where that is not possible.

    Args:
        args, kwargs: what `from_pretrained` got; of `kwargs`, what `__init__` names is passed on.
    """
    parts = [part for _, part in configurations(config) if part is not config]
    if is_deepspeed_zero3_enabled() or any(getattr(part, "auto_map", None) for part in parts):
        # ZeRO-3 builds models in its own way; and remote code of a part would ask a second time whether it may run.
        return None
    accepted = inspect.signature(model_class.__init__).parameters
    kwargs = {name: value for name, value in kwargs.items() if name in accepted}
    try:
        with torch.device("meta"), _WithoutNumbers():
            return model_class(copy.deepcopy(config), *args, **kwargs)
    except Exception as error:  # whatever it is, loading says it better
        logger.debug(f"{model_class.__name__} could not be built on the meta device: {error}")
        return None
