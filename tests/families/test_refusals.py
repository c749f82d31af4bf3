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

"""The table of reasons: its model types exist, what it calls near can merge, and messages are made of it."""

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModel, BertConfig, SwinConfig, VisionTextDualEncoderConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import is_timm_available
from zoo.vision_language import TEXT

from optimum_pitome import UnsupportedArchitectureError, apply_pitome
from optimum_pitome.families.refusals import REASONS, explain
from optimum_pitome.families.table import SUPPORTED_MODEL_TYPES


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.24"), reason="some model types are newer")
def test_the_table_knows_its_model_types():
    listed = [model_type for reason in REASONS for model_type in reason.model_types.split()]
    assert len(set(listed)) == len(listed) > 100
    assert set(listed) <= set(CONFIG_MAPPING_NAMES)


def test_the_table_refuses_nothing_that_can_merge():
    for reason in REASONS:
        assert set(reason.nearest) <= set(SUPPORTED_MODEL_TYPES)
        assert not set(reason.model_types.split()) & set(SUPPORTED_MODEL_TYPES)


#: Model type → what the refusal says.
SAYS = {
    "swin": "'swin' attends inside the windows of a grid .* near it, vit, dinov2",
    "swinv2": "'swinv2' attends inside the windows",
    "hiera": "'hiera' attends inside the windows",
    "sam": "'sam' attends inside the windows",
    "beit": "'beit' adds a bias for each pair of positions .* near it, vit",
    "deberta-v2": "'deberta-v2' adds a bias for each pair of positions .* near it, bert",
    "t5": "'t5' adds a bias for each pair of positions",
    "wavlm": "'wavlm' adds a bias for each pair of positions .* merged tokens\\. Supported",
    "wav2vec2-bert": "'wav2vec2-bert' adds a bias for each pair of positions",
    "florence2": "'florence2' attends inside the windows of a grid .* near it, llava",
    "glm4v": "'glm4v_vision' packs the patches of all images .* not supported yet; near it, qwen2_vl",
    "gpt2": "'gpt2' is a causal decoder",
    "llama": "'llama' is a causal decoder",
    "resnet": "'resnet' has no attention",
    "segformer": "'segformer' attends inside the windows of a grid of tokens, or halves the grid",
    "timesformer": "'timesformer' attends over space and over time in turn",
    "bart": "'bart' is not supported yet",
    "albert": "'albert' is not supported yet; near it, bert, roberta",
}


@pytest.mark.parametrize("model_type", SAYS)
def test_refusals_say_why(model_type):
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type))
    with pytest.raises(UnsupportedArchitectureError, match=SAYS[model_type]) as error:
        apply_pitome(model, 0.9)
    assert "Supported model types: " in str(error.value) and ", bert," in str(error.value)
    assert "register_architecture" in str(error.value)


def test_a_part_that_is_missing_is_explained():
    swin = SwinConfig(embed_dim=8, depths=[1], num_heads=[1], image_size=32, patch_size=4, window_size=4)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(swin, BertConfig(**TEXT))
    assert "'swin' attends inside the windows" in explain(config)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    with pytest.raises(ValueError, match="no part 'vision'. Parts .* merge: 'text'. Model type 'swin' attends inside"):
        apply_pitome(model, {"vision": 0.9})


def test_what_auto_model_does_not_know_is_explained_too():
    assert "'videomt' lets query tokens join the patches halfway" in explain(AutoConfig.for_model("videomt"))
    assert "'gemma4_vision' averages patches by their places" in explain(AutoConfig.for_model("gemma4_vision"))


def test_other_models_of_timm_are_explained():
    for model_type in ("timm_wrapper", "timm_backbone"):
        assert f"{model_type!r} can merge where the model of timm inside is a" in explain(
            AutoConfig.for_model(model_type)
        )


@pytest.mark.skipif(is_timm_available(), reason="timm is installed")
def test_without_timm_transformers_says_what_is_missing(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "model_type": "timm_wrapper"}')
    with pytest.raises(ImportError, match="requires the timm library"):
        AutoModel.from_pretrained(tmp_path, pitome=0.9)
    with pytest.raises(ImportError, match="requires the timm library"):
        AutoModel.from_config(AutoConfig.for_model("timm_wrapper", pitome={"ratio": 0.9}))


def test_nothing_to_explain():
    assert explain(BertConfig(**TEXT)) == ""
    with pytest.raises(ValueError, match="Linear has no encoder that optimum_pitome can rewrite. Supported"):
        apply_pitome(torch.nn.Linear(2, 2), 0.9)
