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

"""Asks, without a token, for what it may not have, and for what is not there."""

from common import answer, attempt, outputs
from transformers import AutoConfig, AutoModelForImageClassification

from optimum_pitome import PiToMeConfig


load = AutoModelForImageClassification.from_pretrained
model = load("me/merged")
before = outputs(model)
found = {
    "private": attempt(lambda: load("me/secret")),
    "private, with settings": attempt(lambda: load("me/secret", pitome=0.8)),
    "revision": attempt(lambda: load("me/merged", revision="v9")),
    "revision of a recipe": attempt(lambda: load("me/recipe", revision="v9")),
    "revision of a dense model": attempt(lambda: load("me/base", revision="v1", pitome=0.8)),
    "config": attempt(lambda: AutoConfig.from_pretrained("me/secret")),
    "recipe of a private model": attempt(lambda: load("me/recipe-of-secret")),
    "push": attempt(lambda: model.push_to_hub("me/merged")),
    "push of a recipe": attempt(lambda: PiToMeConfig(base_model_name_or_path="me/base").push_to_hub("me/recipe")),
}
assert outputs(model) == before and model.config.pitome["ratio"] == 0.8
answer(found)
