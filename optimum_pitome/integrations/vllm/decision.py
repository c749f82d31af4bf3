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

"""What becomes of a model that asks for merging, decided once, when vLLM has read its configuration."""

from __future__ import annotations

import logging as stdlib_logging
from typing import Any

import torch
from transformers.utils import logging

from ...configuration.config import configurations
from ...families.llava.counts import num_image_tokens
from ...hub import UNSET
from ...hub.entries import check_values, entries
from .vision import vision_half


logger = logging.get_logger(__name__)
#: Below vLLM's own logger, which shows what is worth knowing of a server.
told = stdlib_logging.getLogger("vllm.optimum_pitome")

#: Models whose class in vLLM can take a tower of ours.
NATIVE = ("llava", "clip", "siglip")
#: Models whose prompts get shorter in vLLM. Those of transformers' `SHORT_PROMPTS` that are missing are served dense.
SHORT_PROMPTS = ("llava", "vipllava")
#: Stands for vLLM's class around any model of transformers.
BACKEND = "transformers"
_DENSE = "--hf-overrides '{\"pitome\": null}' serves the dense model."


def merges(config: Any) -> bool:
    """Whether a configuration asks for merging."""
    return any(value is not None and value is not False for _, value in entries(config))


def decide(model_config: Any, parallel_config: Any) -> str | None:
    """Decides about a model of vLLM. Where it cannot merge, its configuration loses the settings.

    Args:
        model_config (`vllm.config.ModelConfig`): with overrides of the configuration in it already.
        parallel_config (`vllm.config.ParallelConfig`): how many devices share it.

    Returns:
        The class of vLLM that is to merge: a model type of `NATIVE`, or `BACKEND`; `None` for a dense model.

    Raises:
        ValueError: for settings that do not fit the model, and for what would give wrong answers.
    """
    config = model_config.hf_config
    if not merges(config):
        return None
    check_values(UNSET, config)
    backend = model_config.using_transformers_backend()
    reason = _why_dense(model_config, backend)
    if reason is not None:
        logger.warning_once(f"{config.model_type} is served dense, and its `pitome` settings are ignored: {reason}.")
        for _, part in configurations(config):
            if hasattr(part, "pitome"):
                part.pitome = None
        return None
    if backend and parallel_config.tensor_parallel_size > 1:
        way_out = (
            "use vLLM's own class (leave model_impl at 'auto'), whose vision tower is whole on every device"
            if config.model_type in NATIVE
            else "use one device (or several with data parallelism)"
        )
        raise ValueError(
            f"tensor_parallel_size={parallel_config.tensor_parallel_size} with merging: vLLM's Transformers backend "
            f"divides the heads of the vision tower among devices, which would then merge different tokens. Please "
            f"{way_out}. {_DENSE}"
        )
    with torch.device("meta"):
        half = vision_half(config)  # refuses settings that do not fit
    short = (
        f": a picture takes {num_image_tokens(half)} tokens of the prompt"
        if config.model_type in SHORT_PROMPTS and not backend  # there the processor decides, which is not known yet
        else ""
    )
    told.info("%s merges tokens in its vision tower%s.", config.model_type, short)
    return BACKEND if backend else config.model_type


def _why_dense(model_config: Any, backend: bool) -> str | None:
    config, images = model_config.hf_config, model_config.multimodal_config
    if images is not None and images.get_limit_per_prompt("image") == 0:
        return "limit_mm_per_prompt allows no images"
    if config.model_type in SHORT_PROMPTS:
        return None
    if config.model_type not in NATIVE:
        return "in vLLM, optimum_pitome merges in LLaVA, VipLLaVA, CLIP and SigLIP"
    if backend:
        return "merging in an embedding model needs vLLM's own class, so leave model_impl at 'auto'"
    pooling = model_config.pooler_config.seq_pooling_type
    if pooling not in ("CLS", "LAST") or not getattr(config.vision_config, "vision_use_head", True):
        return f"merging in an embedding model needs its pooled output, not pooling_type={pooling!r}"
    return None
