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

"""What of timm cannot merge, or not so, and what is said then."""

import pytest
import torch
from torch import nn

from optimum_pitome import UnsupportedArchitectureError, apply_pitome, pitome_disabled
from optimum_pitome.modeling.rewrite import rewritten_encoders


timm = pytest.importorskip("timm", reason="timm is not installed: make test-timm has it")

from families.test_timm import images, timm_vit  # noqa: E402, F401
from transformers import TimmWrapperConfig, TimmWrapperModel  # noqa: E402
from zoo.timm import SIZES, timm_config  # noqa: E402


REFUSED = {
    "a network without attention": (
        "resnet18",
        {},
        "can merge where the model of timm inside is a Vision",
    ),
    "windows": ("swin_tiny_patch4_window7_224", {}, "and this one is neither; near it, vit"),
    "other blocks": (
        "vit_base_patch32_plus_256",
        {"block_fn": timm.models.vision_transformer.ResPostBlock},
        "its blocks are ResPostBlock, and only those of the class Block",
    ),
    "other attention": (
        "vit_tiny_patch16_224",
        {"attn_layer": "diff"},
        "its attention is a DiffAttention, and only",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_merge_says_why(name):
    architecture, arguments, message = REFUSED[name]
    with torch.device("meta"):
        model = TimmWrapperModel(TimmWrapperConfig(architecture=architecture, model_args=arguments))
    with pytest.raises(UnsupportedArchitectureError, match=message):
        apply_pitome(model, 0.9)


def test_short_sequences_are_refused(images):  # noqa: F811
    for model in (timm_vit(), TimmWrapperModel(timm_config())):
        with pytest.raises(UnsupportedArchitectureError, match="VisionTransformer pools its tokens itself"):
            apply_pitome(model, {"ratio": 0.8, "unmerge": False})
        assert not rewritten_encoders(model)


def test_masks_are_refused_where_tokens_merge(images):  # noqa: F811
    model = timm_vit()
    mask = torch.ones(65, 65, dtype=torch.bool)
    dense = model(images, attn_mask=mask)
    apply_pitome(model, 0.8)
    for masks in ({"attn_mask": mask}, {"is_causal": True}):
        with pytest.raises(ValueError, match="attn_mask or is_causal, which tokens that merge do not follow"):
            model(images, **masks)
    with pitome_disabled(model):
        assert torch.equal(model(images, attn_mask=mask), dense)


def test_a_subclass_with_features_of_its_own_is_refused():
    class Mine(timm.models.VisionTransformer):
        def forward_features(self, x, attn_mask=None, is_causal=False):
            return 2 * super().forward_features(x, attn_mask, is_causal)

    with pytest.raises(UnsupportedArchitectureError, match="Mine is a VisionTransformer with a forward_features of"):
        apply_pitome(nn.Sequential(Mine(**SIZES)), 0.8)
