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

"""Text classification, dense against merged: accuracy, agreement, operations, measured speed.

Without --model: MiniLM from a package, mean pooling, and a linear head trained here on dense features
(of all training texts; --max-train 4000 is quicker).

    python examples/text_classification.py                              # 20 Newsgroups: long texts
    python examples/text_classification.py --dataset reuters
    python examples/text_classification.py --dataset movie_snippets     # short texts, where merging gains nothing

Any text classifier and any labelled texts, from a hub or from disk, with the model's own head:

    python examples/text_classification.py --model textattack/bert-base-uncased-imdb --dataset stanfordnlp/imdb

Without a column of class labels, agreement with the dense model is all there is to measure: your own texts will do.
Reaction-like strings, made up here, with a trained 12-layer BERT:

    python examples/text_classification.py --model bert_reactions --dataset generated_reactions

On several processes: accelerate launch --multi_gpu --num_processes 2 examples/text_classification.py
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from pathlib import Path

import torch
from accelerate import Accelerator
from common import add_arguments, evaluate, fit_head, label_numbers, read_configs, report, results_of
from finetune_data import model_path
from text_data import BUILT_IN, MeanPooledClassifier, collate, load_labelled_texts, tokenize
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from optimum_pitome import apply_pitome, pitome_summary


UNIT = "text"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="hub id or path of a text classifier, or bert_reactions (default: MiniLM, new head)"
    )
    parser.add_argument("--dataset", default="newsgroups", help=f"{', '.join(BUILT_IN)}, a hub id, or a path")
    parser.add_argument("--split", help="split to evaluate (default: test, validation, or what there is)")
    parser.add_argument("--text-columns", nargs="+", help="the column of the text, or the two of a pair")
    parser.add_argument("--train-head", action="store_true", help="train a new linear head on dense mean features")
    parser.add_argument("--max-train", type=int, help="train the head on so many texts only")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of a text; what is longer is cut")
    add_arguments(parser, [0.9, 0.8, 0.7], "outputs/text_classification")
    arguments = parser.parse_args()
    arguments.train_head = arguments.train_head or arguments.model is None
    arguments.model = model_path(arguments.model or "minilm")
    arguments.configs = read_configs(arguments)
    return arguments


def count_operations(model, config, lengths: Counter) -> tuple[float, float]:
    """GFLOPs of a text, merge step included, and the tokens behind the last layer: means over texts of these lengths,
    without padding."""
    apply_pitome(model, config)
    gflops = tokens = 0.0
    for length, number in lengths.items():
        summary = pitome_summary(model, num_tokens=length)
        gflops += number * (summary.gflops_merged + summary.gflops_merge_step)
        tokens += number * summary.tokens[-1]
    return gflops / lengths.total(), tokens / lengths.total()


def main() -> None:
    arguments = parse_arguments()
    # Said outright, or processes on a machine without GPU would not join (accelerate 1.15).
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    texts = load_labelled_texts(
        arguments.dataset,
        arguments.split,
        arguments.text_columns,
        arguments.train_head,
        arguments.max_train,
        arguments.max_samples,
    )

    def loader_of(dataset, labels: list[int] | None) -> DataLoader:
        rows = tokenize(dataset, tokenizer, arguments.max_length, labels)
        return accelerator.prepare(DataLoader(rows, arguments.batch_size, collate_fn=collate(tokenizer)))

    if arguments.train_head:
        labels = list(range(len(texts.names)))
        model = accelerator.prepare_model(
            MeanPooledClassifier(arguments.model, len(labels)).eval(), evaluation_mode=True
        )
        fit_head(model, model.head, loader_of(texts.train, labels), accelerator)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(arguments.model, pitome=False)
        labels = label_numbers(texts.names, model.config) if texts.names else None
        if labels is None and accelerator.is_main_process:
            print(f"{arguments.dataset} has no column of class labels: agreement with the dense model only.")
        model = accelerator.prepare_model(model.eval(), evaluation_mode=True)
    loader = loader_of(texts.test, labels)
    apply_pitome(model, next(iter(arguments.configs.values()), 1.0))
    # Batches differ in length: the mean counts each for what it costs.
    values, speeds = evaluate(
        model, loader, arguments.configs, accelerator, len(texts.test), UNIT, typical=statistics.fmean
    )
    if accelerator.is_main_process:
        lengths = Counter(loader.dataset["length"])
        results = results_of(
            values, speeds, lambda ratio: count_operations(model, arguments.configs.get(ratio, 1.0), lengths)
        )
        title = f"{Path(str(arguments.model)).name} on {Path(arguments.dataset).name} ({len(texts.test)} texts)"
        report(results, title, UNIT, arguments.output_dir, accelerator)
        slow = [f"{result.ratio:g}" for result in results if result.speed_up < 1.0]
        if slow:
            print(f"Merging made the model slower at ratio {', '.join(slow)}: leave it dense for texts this short.")
    accelerator.end_training()


if __name__ == "__main__":
    main()
