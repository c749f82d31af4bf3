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

"""Pulls from a hub that sends too little, and from one that breaks off once."""

from common import answer, attempt, let_the_hub_fail, let_the_hub_recover, outputs
from huggingface_hub import constants
from transformers import AutoModelForImageClassification

import optimum_pitome  # noqa: F401


constants.DOWNLOAD_CHUNK_SIZE = 8192  # of 10 MB the client would keep nothing: the file is smaller than that
load = AutoModelForImageClassification.from_pretrained
model = load("me/base", pitome=0.8)
before = outputs(model)
let_the_hub_fail("GET", "/me/merged/resolve/.*safetensors", "short")
error = attempt(lambda: load("me/merged"))
assert outputs(model) == before
let_the_hub_recover()
assert outputs(load("me/merged")) == before
assert outputs(load("me/merged", local_files_only=True)) == before
let_the_hub_fail("GET", "/me/merged/resolve/.*safetensors", "cut", times=1)
assert outputs(load("me/merged", force_download=True)) == before
answer(error)
