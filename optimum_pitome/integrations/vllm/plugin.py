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

"""What the plugin replaces in vLLM: each hook is installed when vLLM imports its module, and does nothing for a model
whose configuration asks for no merging. docs/serving.md lists them."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from ...hub.import_hooks import when_imported
from ...modeling.wrap import wrap


#: The versions of vLLM that `make test-vllm` ran on.
TESTED = ("0.32.0",)

_CONFIG = "vllm.config.model"
#: What `decide` says → the module of vLLM with the class that is to merge.
_MODULES = {
    "transformers": "vllm.model_executor.models.transformers.multimodal",
    "llava": "vllm.model_executor.models.llava",
    "clip": "vllm.model_executor.models.clip",
    "siglip": "vllm.model_executor.models.siglip",
}


def register() -> None:
    """The entry point. Imports neither vLLM nor torch; a second call does nothing new."""
    for module in _HOOKS:
        when_imported(module, functools.partial(_install, module))


def require(kind: str) -> None:
    """Imports the module of vLLM with the class that is to merge, and with it its hooks.

    Raises:
        RuntimeError: if this vLLM lacks what the hooks replace.
    """
    missing = _missing(importlib.import_module(_MODULES[kind]))
    if missing:
        raise RuntimeError(f"{_unfit(missing)} Serve the model dense with --hf-overrides '{{\"pitome\": null}}'.")


def _install(name: str, module: ModuleType) -> None:
    if not _missing(module):
        for (owner, method), make in _HOOKS[name].items():
            wrap(getattr(module, owner), method, make)
    elif name == _CONFIG:  # without this hook nobody asks `require`
        from transformers.utils import logging

        logging.get_logger(__name__).error(_unfit(_missing(module)) + " Models are served dense, or not at all.")


def _missing(module: ModuleType) -> list[str]:
    """What the hooks of a module replace and this vLLM does not have."""
    owners = [(getattr(module, owner, None), owner, method) for owner, method in _HOOKS[module.__name__]]
    return [f"{owner}.{method}" for found, owner, method in owners if found is None or not hasattr(found, method)]


def _unfit(missing: list[str]) -> str:
    version = getattr(sys.modules.get("vllm"), "__version__", "of an unknown version")
    return (
        f"optimum_pitome does not fit this vLLM ({version}), which has no {', '.join(missing)}. It was tested with "
        f"vLLM {', '.join(TESTED)}: install that, or a newer optimum_pitome."
    )


def _decide(verify: Callable) -> Callable:
    def verify_with_parallel_config(self, parallel_config):
        from .decision import decide

        kind = decide(self, parallel_config)
        if kind is not None:
            require(kind)
        return verify(self, parallel_config)

    return verify_with_parallel_config


def _shorten_processor(get: Callable) -> Callable:
    def get_hf_processor(self, **kwargs):
        from .placeholders import shorten_processor

        return shorten_processor(get(self, **kwargs), self.get_hf_config(), self)

    return get_hf_processor


def _count_tokens(count: Callable) -> Callable:
    def get_num_image_tokens(self, **size):
        from .placeholders import count_image_tokens

        found = count_image_tokens(self.get_hf_config(), self)
        return count(self, **size) if found is None else found

    return get_num_image_tokens


def _swap_tower(attribute: str, tower: str) -> Callable[[Callable], Callable]:
    """A constructor after which the model's vision tower is one that merges, where its configuration asks for that."""

    def make(construct: Callable) -> Callable:
        def __init__(self, *args, **kwargs):
            construct(self, *args, **kwargs)
            from .decision import merges

            if merges(self.config):
                if not hasattr(self, attribute):
                    raise RuntimeError(_unfit([f"{type(self).__name__}.{attribute}"]))
                from . import vision

                merging = getattr(vision, tower)(self.config)
                _replace_linears(merging)
                setattr(self, attribute, merging)

        return __init__

    return make


def _replace_linears(tower: Any) -> None:
    """Gives a tower vLLM's linear layers, which it has made fast for every device, in place of PyTorch's."""
    from torch.nn import Linear
    from vllm.model_executor.layers.linear import ReplicatedLinear

    for name, module in list(tower.named_modules()):
        if type(module) is Linear:  # not one that attention of PyTorch's reads the weights of
            sizes = module.in_features, module.out_features
            tower.set_submodule(name, ReplicatedLinear(*sizes, bias=module.bias is not None, return_bias=False))


def _read_new_names(load: Callable) -> Callable:
    """Checkpoints saved by transformers 5.19 and later lack a level in the names of a tower's weights, without which
    vLLM 0.32 does not know them."""

    def load_weights(self, weights: Iterable[tuple[str, Any]]):
        level = "vision_tower.vision_model."
        if hasattr(self.vision_tower, "vision_model"):
            weights = (
                (name.replace("vision_tower.", level), w) if level not in name else (name, w) for name, w in weights
            )
        return load(self, weights)

    return load_weights


#: Module of vLLM → what is replaced in it (class, method) → by what.
_HOOKS: dict[str, dict[tuple[str, str], Callable[[Callable], Callable]]] = {
    _CONFIG: {("ModelConfig", "verify_with_parallel_config"): _decide},
    _MODULES["transformers"]: {("MultiModalProcessingInfo", "get_hf_processor"): _shorten_processor},
    _MODULES["llava"]: {
        ("LlavaProcessingInfo", "get_num_image_tokens"): _count_tokens,
        ("LlavaForConditionalGeneration", "__init__"): _swap_tower("vision_tower", "LlavaTower"),
        ("LlavaForConditionalGeneration", "load_weights"): _read_new_names,
    },
    _MODULES["clip"]: {("CLIPEmbeddingModel", "__init__"): _swap_tower("vision_model", "PooledTower")},
    _MODULES["siglip"]: {("SiglipEmbeddingModel", "__init__"): _swap_tower("vision_model", "PooledTower")},
}
