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

"""Pushes recipes of all kinds, and loads them in all the ways there are."""

import os

from common import answer, attempt, outputs
from huggingface_hub import HfApi, constants
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    AutoTokenizer,
    ViTForImageClassification,
)

from optimum_pitome import PiToMeConfig, PiToMeForImageClassification


classes = [AutoModelForImageClassification, PiToMeForImageClassification, ViTForImageClassification]
image_classes = [AutoImageProcessor, AutoProcessor] if "from_pretrained" in vars(AutoImageProcessor) else []


def push(repository, base, ratio, **kwargs):
    PiToMeConfig(ratio=ratio, base_model_name_or_path=base).push_to_hub(repository, **kwargs)


def load(name, **kwargs):
    return [outputs(loader.from_pretrained(name, **kwargs)) for loader in classes]


AutoModelForImageClassification.from_pretrained("me/base").push_to_hub("me/own")
push("me/own", "me/own", 0.6, revision="faster")  # names the other branch of its own repository
recipe = PiToMeConfig(ratio=0.6, base_model_name_or_path="me/own").to_json_string().encode()
HfApi().upload_file(path_or_fileobj=recipe, path_in_repo="faster/config.json", repo_id="me/own")
push("me/of-recipe", "me/recipe", 0.8)
push("me/of-secret", "me/secret", 0.8)
push("me/a", "me/b", 0.8)
push("me/b", "me/a", 0.8)

os.environ.pop("HF_TOKEN")
found = {
    "recipe": load("me/recipe"),
    "branch": load("me/own", revision="faster"),
    "subfolder": load("me/own", subfolder="faster"),
    "of a recipe": load("me/of-recipe"),
    "of a private model": load("me/of-secret", token="hf_me"),
    "dense": load("me/recipe", pitome=False, force_download=True),
    "from disk": load("me/own", revision="faster", local_files_only=True),
}
kinds = {
    **{loader.__name__: loader for loader in (*classes, AutoModel, AutoTokenizer, *image_classes)},
    "AutoProcessor": AutoProcessor,
}
found["circles"] = {name: attempt(lambda: kind.from_pretrained("me/a")) for name, kind in kinds.items()}
found["circles"]["from_config"] = attempt(lambda: AutoModel.from_config(AutoConfig.from_pretrained("me/a")))
for kind in image_classes:
    assert kind.from_pretrained("me/of-recipe").size == {"height": 32, "width": 32}
constants.HF_HUB_OFFLINE = True
found["offline"] = load("me/own", revision="faster")
for kind in image_classes:
    assert kind.from_pretrained("me/of-recipe").size == {"height": 32, "width": 32}
answer(found)
