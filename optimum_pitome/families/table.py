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

"""Where the built-in families are: the modules of transformers that define encoders, and our files."""

from __future__ import annotations

from pathlib import Path

from transformers import models
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import is_timm_available


#: File here → folders in `transformers.models` (and `/file`, where its name is another) that define what it rewrites.
_FOLDERS = {
    "vit": "vit deit vit_msn",
    "vit_like": "ijepa vit_mae pixio vivit audio_spectrogram_transformer",
    "videomae": "videomae",
    "vjepa2": "vjepa2",
    "dense_prediction": "yolos dpt vitpose_backbone",
    "dinov2": "dinov2 dinov2_with_registers",
    "dinov3": "dinov3_vit",
    "eomt": "eomt eomt_dinov3",
    "clip": "clip",
    "clip_like": "metaclip_2 chinese_clip altclip",
    "clip_dense": "clipseg owlvit owlv2",
    "aimv2": "aimv2",
    "siglip": "siglip",
    "siglip2": "siglip2",
    "idefics": "idefics2 idefics3 smolvlm",
    "internvl": "internvl",
    "qwen_vision": "qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe qwen3_5",
    "llava": "llava vipllava paligemma colpali deepseek_vl llava_next llava_next_video llava_onevision",
    "blip": "blip",
    "blip2": "blip_2 instructblip",
    "bert": "bert electra ernie",
    "roberta": "roberta xlm_roberta xlm_roberta_xl camembert data2vec/data2vec_text roberta_prelayernorm",
    "distilbert": "distilbert",
    "mpnet": "mpnet",
    "rotary": "nomic_bert jina_embeddings_v3 eurobert",
    "gte": "gte",
    "modernbert": "modernbert",
    "wav2vec2": "wav2vec2 hubert",
    "whisper": "whisper",
}


def _module(folder: str) -> str:
    folder, _, file = folder.partition("/")
    return f"transformers.models.{folder}.modeling_{file or folder}"


#: Module of transformers that defines an encoder → module here that registers it.
FAMILIES = {
    _module(folder): f"{__package__}.{file}"
    for file, folders in _FOLDERS.items()
    for folder in folders.split()
    if Path(models.__path__[0], folder.partition("/")[0]).is_dir()  # transformers may be older than the family
}

#: model types of the built-in families, for messages and documentation: a module's name, as configurations spell it.
SUPPORTED_MODEL_TYPES = tuple(
    sorted(
        {"data2vec": "data2vec-text"}.get(name, name if name in CONFIG_MAPPING_NAMES else name.replace("_", "-"))
        for name in (path.split(".")[2] for path in FAMILIES)
    )
)

# Of another package, where that is installed: its models can merge, and those of transformers that wrap them.
if is_timm_available():
    FAMILIES["timm.models.vision_transformer"] = f"{__package__}.timm"
    FAMILIES["timm.models.eva"] = f"{__package__}.timm_eva"
