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

"""Writes the test parts of packaged data sets where `optimum-cli pitome evaluate --dataset` reads them.

python examples/packaged_test_data.py fashion_mnist newsgroups stamps --output-dir outputs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Image, Value
from finetune_data import BUILT_IN_DATA, load_splits, save_test_part
from retrieval_data import captioned_stamps

from optimum_pitome.evaluation.data import take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=(*BUILT_IN_DATA, "stamps"))
    parser.add_argument("--max-test", type=int, help="at most so many samples (default: all)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    arguments = parser.parse_args()
    for name in arguments.names:
        if name == "stamps":  # pictures with captions
            test = take(captioned_stamps()["test"], arguments.max_test)
            test.save_to_disk(arguments.output_dir / name)
            print(arguments.output_dir / name)
            continue
        images = name == "fashion_mnist"
        _, test = load_splits(name, Image if images else Value, 1, arguments.max_test)
        print(save_test_part(test, name, arguments.output_dir))


if __name__ == "__main__":
    main()
