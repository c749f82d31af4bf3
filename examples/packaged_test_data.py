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

from example_data import BUILT_IN_DATA, load

from optimum_pitome.evaluation.data import take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=BUILT_IN_DATA, help="stamps come with their captions")
    parser.add_argument("--max-test", type=int, help="at most so many samples (default: all)")
    parser.add_argument("--halves", action="store_true", help="two parts: one to choose on, one to report on")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    arguments = parser.parse_args()
    for name in arguments.names:
        dataset = take(load("captioned_stamps" if name == "stamps" else name)[0], arguments.max_test)
        parts = {name: dataset}
        if arguments.halves:
            parts = {f"{name}_{part}": dataset.select(range(part - 1, len(dataset), 2)) for part in (1, 2)}
        for title, part in parts.items():
            part.save_to_disk(arguments.output_dir / title)
            print(arguments.output_dir / title)


if __name__ == "__main__":
    main()
