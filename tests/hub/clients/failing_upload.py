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

"""Pushes to a hub that fails in several ways, each time again when it has recovered."""

import hashlib
import sys
from pathlib import Path

import torch
from common import answer, attempt, let_the_hub_fail, let_the_hub_recover, outputs
from transformers import AutoModelForImageClassification

import optimum_pitome  # noqa: F401


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


errors = []
failures = [("PUT", "/upload/", "hang up"), ("PUT", "/upload/", 500), ("POST", "/commit/", 500)]
for index, failure in enumerate(failures):
    repository, folder = f"me/upload-{index}", f"{sys.argv[1]}/{index}"
    model = AutoModelForImageClassification.from_pretrained("me/base", pitome=0.8)
    with torch.no_grad():
        model.classifier.bias.add_(index + 1)  # weights that the hub does not have yet
    model.save_pretrained(folder)
    before, files, settings = outputs(model), digests(folder), dict(model.config.pitome)
    let_the_hub_fail(*failure)
    errors.append(attempt(lambda: model.push_to_hub(repository)))
    assert outputs(model) == before and model.config.pitome == settings and digests(folder) == files
    let_the_hub_recover()
    model.push_to_hub(repository)
    assert outputs(AutoModelForImageClassification.from_pretrained(repository)) == before
answer(errors)
