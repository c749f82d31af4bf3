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

"""Pulls everything that push.py pushed."""

from common import answer, outputs
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

import optimum_pitome  # noqa: F401


def load(name, **kwargs):
    model = AutoModelForImageClassification.from_pretrained(name, **kwargs)
    assert type(model).__name__ == "ViTForImageClassification"
    return outputs(model)


found = {
    "merged": load("me/merged"),
    "merged, stronger": load("me/merged", revision="stronger"),
    "merged, stronger, at 0.8": load("me/merged", revision="stronger", pitome=0.8),
    "merged, dense": load("me/merged", pitome=False),
    "dense, at 0.8": load("me/base", pitome={"ratio": 0.8}),
    "secret": load("me/secret"),
    "recipe": load("me/recipe"),
    "recipe, v1": load("me/recipe", revision="v1"),
    "recipe, v1, at 0.6": load("me/recipe", revision="v1", pitome=0.6),
    "recipe, dense": load("me/recipe", pitome=False),
    "trained": load("me/trained"),
    "trained, dense": load("me/trained", pitome=False),
}
# transformers before 5.14 has no image processors without torchvision.
if "from_pretrained" in vars(AutoImageProcessor):
    found["pipeline"] = outputs(pipeline("image-classification", model="me/recipe", revision="v1").model)
answer(found)
