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

from common import add_arguments, add_head_arguments, classify
from example_data import BUILT_IN_DATA, model_path
from torch.nn.functional import normalize
from transformers import AutoModel

from optimum_pitome.evaluation.judges import pooled


def load_headless(path):
    """An encoder alone, and the direction of the mean over its tokens, as in sentence-transformers."""
    return AutoModel.from_pretrained(path, pitome=False), lambda *output: normalize(pooled(*output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="hub id or path of a text classifier, or bert_reactions (default: MiniLM, new head)"
    )
    parser.add_argument("--dataset", default="newsgroups", help=f"{', '.join(BUILT_IN_DATA)}, a hub id, or a path")
    parser.add_argument("--text-columns", nargs="+", help="the column of the text, or the two of a pair")
    add_arguments(parser, [0.9, 0.8, 0.7], "outputs/text_classification")
    add_head_arguments(parser)
    arguments = parser.parse_args()
    arguments.train_head = arguments.train_head or arguments.model is None
    arguments.model = model_path(arguments.model or "minilm")
    found = classify(arguments, "text", load_headless, arguments.text_columns)
    slow = [one.name for one in found if one.timing.speedup < 1.0]
    if slow:
        print(f"Merging made the model slower at {', '.join(slow)}: leave it dense for texts this short.")


if __name__ == "__main__":
    main()
