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

"""Vision towers that get the patches of all images in one sequence, and what reads them."""

import importlib

import torch
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3_5Config, Qwen3VLConfig, Qwen3VLMoeConfig

from zoo import Case


PATCH, GRID = 4, (1, 6, 8)
IMAGE_TOKEN = 90

_SIZES = {"depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": PATCH, "temporal_patch_size": 1}
_GATED = {**_SIZES, "intermediate_size": 64, "out_hidden_size": 32}
_ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_parameters": _ROTARY,
}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
_GRID_OF_POSITIONS = {"num_position_embeddings": 64, "deepstack_visual_indexes": [1]}

#: Prefix of the classes → configuration, of the tower, of the language model.
_PARTS = {
    "Qwen2VL": (Qwen2VLConfig, {**_SIZES, "embed_dim": 32, "mlp_ratio": 2}, {}),
    # Windows of 4 x 4 patches, those at the right and at the bottom cut off.
    "Qwen2_5_VL": (Qwen2_5_VLConfig, {**_GATED, "window_size": 16, "fullatt_block_indexes": [1]}, {}),
    "Qwen3VL": (Qwen3VLConfig, {**_GATED, **_GRID_OF_POSITIONS}, {}),
    "Qwen3VLMoe": (Qwen3VLMoeConfig, {**_GATED, **_GRID_OF_POSITIONS}, _EXPERTS),
    "Qwen3_5": (Qwen3_5Config, {**_GATED, "num_position_embeddings": 64}, {"layer_types": ["full_attention"]}),
}
_TOWERS = {
    "Qwen2VL": "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5_VL": "Qwen2_5_VisionTransformerPretrainedModel",
}


def _whole(name: str):
    config_class, vision, text = _PARTS[name]

    def make():
        tokens = {"image_token_id": IMAGE_TOKEN, "vision_start_token_id": 91, "vision_end_token_id": 92}
        return config_class(vision_config=dict(vision), text_config={**_TEXT, **text}, **tokens)

    return make


def _tower(name: str):
    return lambda: _whole(name)().vision_config


def packed_images(*grids: tuple[int, int, int], seed: int = 1) -> dict[str, torch.Tensor]:
    """Images (or clips) of so many frames, rows and columns of patches."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.tensor(grids)
    patches = torch.randn(int(grid.prod(dim=1).sum()), 3 * PATCH**2, generator=generator)
    return {"hidden_states": patches, "grid_thw": grid}


def images(batch_size: int) -> dict[str, torch.Tensor]:
    return packed_images(*[GRID] * batch_size)


def with_text(batch_size: int) -> dict[str, torch.Tensor]:
    tower = images(batch_size)
    prompt = [5, 91, *[IMAGE_TOKEN] * (GRID[1] * GRID[2] // 4), 92, 7, 8]
    ids = torch.tensor([prompt] * batch_size)
    ids[:, -1] += torch.arange(batch_size)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE_TOKEN).int(),
        "pixel_values": tower["hidden_states"],
        "image_grid_thw": tower["grid_thw"],
    }


def _cases(name: str) -> list[Case]:
    folder = _PARTS[name][0].model_type
    modeling = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    since = {"reads_every_token": True, "supported_since": "5.24.0"}
    return [
        Case(
            getattr(modeling, _TOWERS.get(name, f"{name}VisionModel")),
            _tower(name),
            images,
            packed=("hidden_states",),
            flat=("last_hidden_state", "pooler_output", "deepstack_features.0"),
            **since,
        ),
        Case(
            getattr(modeling, f"{name}ForConditionalGeneration"),
            _whole(name),
            with_text,
            packed=("pixel_values",),
            # Before, the cache asked for layers with linear attention.
            runs_since="5.24.0" if name == "Qwen3_5" else "5.0",
            flat=("image_outputs.last_hidden_state", "image_outputs.pooler_output"),
            **since,
        ),
    ]


CASES = [case for name in _PARTS for case in _cases(name)]
