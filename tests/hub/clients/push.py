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

"""Pushes a dense model, the model rewritten, recipes, and what Trainer made."""

import sys

import torch
from common import answer, outputs, pixel_values
from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments, ViTForImageClassification, ViTImageProcessorPil
from zoo.vit import vit_config

from optimum_pitome import PiToMeCallback, PiToMeConfig, apply_pitome, pitome_disabled, remove_pitome
from optimum_pitome.evaluation.evaluation import evaluate
from optimum_pitome.hub.model_cards import write_card


torch.manual_seed(0)
base = ViTForImageClassification(vit_config())
with torch.no_grad():
    for parameter in base.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
base.push_to_hub("me/base")
ViTImageProcessorPil(size={"height": 32, "width": 32}).push_to_hub("me/base")
expected = {"dense": outputs(base)}

model = ViTForImageClassification.from_pretrained("me/base", pitome=0.8)
expected["0.8"] = outputs(model)
model.push_to_hub("me/merged")
model.push_to_hub("me/secret", private=True)
apply_pitome(model, 0.6)
expected["0.6"] = outputs(model)
model.push_to_hub("me/merged", revision="stronger")
model.push_to_hub("me/secret")
source = {"task": "image-classification", "dataset": "me/noise", "split": "test", "command": "optimum-cli pitome ..."}
rows = [{"pixel_values": pixel_values(), "labels": torch.tensor([0, 1])}]
card = write_card(model, f"{sys.argv[1]}/card.md", "me/measured", evaluate(model, rows, source=source))
HfApi().create_repo("me/measured")
HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/measured")
model.push_to_hub("me/measured")
model.push_to_hub("me/dense-again")
remove_pitome(model).push_to_hub("me/dense-again")
apply_pitome(model, 0.6)
HfApi().create_repo("me/handwritten")
card = b"---\nlicense: mit\n---\nWritten by hand.\n"
HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/handwritten")
model.push_to_hub("me/handwritten")

PiToMeConfig(ratio=0.8, base_model_name_or_path="me/base").push_to_hub("me/recipe")
HfApi().create_tag("me/recipe", tag="v1")
PiToMeConfig(ratio=0.6, base_model_name_or_path="me/base").push_to_hub("me/recipe")

rows = [{"pixel_values": pixels, "labels": index} for index, pixels in enumerate(pixel_values())]
arguments = TrainingArguments(
    sys.argv[1], push_to_hub=True, hub_model_id="me/trained", max_steps=2, save_steps=1, report_to=[], use_cpu=True
)
trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[PiToMeCallback(0.7)])
trainer.train()
trainer.push_to_hub()
expected["trained"] = outputs(model)
with pitome_disabled(model):
    expected["trained, dense"] = outputs(model)
answer(expected)
