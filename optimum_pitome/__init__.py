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

"""Faster transformers by merging redundant tokens (PiToMe). `AutoModel.from_pretrained(..., pitome=0.9)`."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from .hub.import_hooks import when_imported
from .hub.loading import COMPOSERS, install, install_composer, install_config


__version__ = "0.1.0"

#: Public name → module. Imported on first use: `import optimum_pitome` stays light (no torch).
_EXPORTS = {
    "PiToMeConfig": ".configuration.config",
    "PiToMeModel": ".hub.recipes",
    "apply_pitome": ".apply",
    "remove_pitome": ".apply",
    "pitome_disabled": ".apply",
    "num_image_tokens": ".families.llava.counts",
    "take_samples": ".modeling.marks",
    "pitome_summary": ".analysis",
    "evaluate": ".evaluation.evaluation",
    "compare": ".evaluation.comparison",
    "register_architecture": ".families",  # which knows what is built in
    "register_reader": ".families",
    "Architecture": ".modeling.architecture",
    "MergingLayer": ".modeling.layer",
    "MergingAttention": ".modeling.attention",
    "cut_rotary": ".modeling.token_arguments",
    "cut_pairs": ".modeling.token_arguments",
    "cut_positions": ".modeling.token_arguments",
    "UnsupportedArchitectureError": ".modeling.registry",
    "register_algorithm": ".methods",
    "register_energy": ".methods",
    "use_kernels": ".kernels.choice",
    "use_attention_form": ".modeling.attention_forms",
    "check_algorithm": ".merging.checks",
    "check_energy": ".merging.checks",
    "PiToMeCallback": ".training.callback",
    "RatioSchedule": ".training.schedule",
    "RatioScheduler": ".training.schedule",
    "DenseDistillation": ".training.distillation",
    "find_budget": ".tuning.choice",
    "tune_ratios": ".tuning.search",
    "export_pitome": ".export.export",
    "load_exported": ".export.loading",
    "visualize": ".visualization.visualize",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name.startswith("PiToMe") and name not in _EXPORTS:  # task variants: PiToMeForImageClassification, ...
        variant = importlib.import_module(".hub.recipes", __name__).variant(name)
        if variant is not None:
            return variant
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    globals()[name] = value
    return value


def _register_config(configuration_auto: ModuleType) -> None:
    importlib.import_module(".configuration.config", __name__).register(configuration_auto)


def _register_models(modeling_auto: ModuleType) -> None:
    importlib.import_module(".hub.recipes", __name__).register(modeling_auto)


def _register_recipe_processors(function: str, auto_module: ModuleType) -> None:
    getattr(importlib.import_module(".hub.recipe_processors", __name__), function)(auto_module)


when_imported("transformers.configuration_utils", install_config)
when_imported("transformers.modeling_utils", install)
for _name in COMPOSERS:
    when_imported(f"transformers.models.{_name}.modeling_{_name}", install_composer)
when_imported("transformers.models.auto.configuration_auto", _register_config)
when_imported("transformers.models.auto.modeling_auto", _register_models)
for _kind in ("image_processing", "tokenization", "processing"):
    when_imported(
        f"transformers.models.auto.{_kind}_auto",
        functools.partial(_register_recipe_processors, f"register_{_kind}"),
    )


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .analysis import pitome_summary
    from .apply import apply_pitome, pitome_disabled, remove_pitome
    from .configuration.config import PiToMeConfig
    from .evaluation.comparison import compare
    from .evaluation.evaluation import evaluate
    from .export.export import export_pitome
    from .export.loading import load_exported
    from .families import register_architecture, register_reader
    from .families.llava.counts import num_image_tokens
    from .hub.recipes import PiToMeModel
    from .kernels.choice import use_kernels
    from .merging.checks import check_algorithm, check_energy
    from .methods import register_algorithm, register_energy
    from .modeling.architecture import Architecture
    from .modeling.attention import MergingAttention
    from .modeling.attention_forms import use_attention_form
    from .modeling.layer import MergingLayer
    from .modeling.marks import take_samples
    from .modeling.registry import UnsupportedArchitectureError
    from .modeling.token_arguments import cut_pairs, cut_positions, cut_rotary
    from .training.callback import PiToMeCallback
    from .training.distillation import DenseDistillation
    from .training.schedule import RatioSchedule, RatioScheduler
    from .tuning.choice import find_budget
    from .tuning.search import tune_ratios
    from .visualization.visualize import visualize
