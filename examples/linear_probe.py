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

"""A classifier out of a pretrained encoder in a minute or two: logistic regression on dense features becomes its head.

Writes the classifier, and the test part of the data for `optimum-cli pitome evaluate`, into the output folder:

    python examples/linear_probe.py --model dinov2_small --dataset fashion_mnist --output-dir outputs
    python examples/linear_probe.py --model minilm --dataset newsgroups --output-dir outputs

Any hub ids or paths in their place. Fine-tuning can start from the classifier, too (`--model outputs/...`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from common import fit_head
from datasets import Image, Value
from finetune_common import label_settings
from finetune_data import load_image_processor, load_splits, model_path, save_test_part
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dinov2_small", help="dinov2_small, minilm, a hub id, or a path")
    parser.add_argument("--dataset", default="fashion_mnist", help="fashion_mnist, newsgroups, reuters, a hub id, ...")
    parser.add_argument("--max-train", type=int, default=1000)
    parser.add_argument("--max-test", type=int, default=500)
    parser.add_argument("--image-size", type=int, help="side of the pictures in pixels (default: the processor's)")
    parser.add_argument("--max-length", type=int, default=256, help="longest text, in tokens")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    return parser.parse_args()


def head_of(model) -> torch.nn.Linear:
    """The last linear layer: the head of a classifier."""
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]


def main() -> None:
    arguments = parse_arguments()
    set_seed(0)
    path = model_path(arguments.model)
    config = AutoConfig.from_pretrained(path)
    images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    train, test = load_splits(arguments.dataset, Image if images else Value, arguments.max_train, arguments.max_test)
    auto_class = AutoModelForImageClassification if images else AutoModelForSequenceClassification
    model = auto_class.from_pretrained(path, **label_settings(train.features["label"].names)).eval()
    processor = load_image_processor(path, arguments.image_size) if images else AutoTokenizer.from_pretrained(path)

    def prepare(inputs):
        if images:
            return processor([image.convert("RGB") for image in inputs], return_tensors="pt")
        length = arguments.max_length
        return processor(inputs, truncation=True, max_length=length, padding=True, return_tensors="pt")

    def collate(rows):
        return {**prepare([row["input"] for row in rows]), "labels": torch.tensor([row["label"] for row in rows])}

    batches = DataLoader(train, arguments.batch_size, collate_fn=collate)
    fit_head(model, head_of(model), batches, Accelerator(cpu=True))
    name = f"{Path(arguments.model).name}-{Path(arguments.dataset).name}".replace("_", "-")
    model.save_pretrained(arguments.output_dir / name)
    processor.save_pretrained(arguments.output_dir / name)
    print(arguments.output_dir / name, save_test_part(test, arguments.dataset, arguments.output_dir), sep="\n")


if __name__ == "__main__":
    main()
