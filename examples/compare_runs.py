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

"""Puts fine-tuning runs side by side: accuracies over the seeds, at the ratios at which they were evaluated.

Runs are the output folders of the fine-tuning scripts, named `<kind>-<seed>`; the first kind is what the others are
compared with, seed by seed: at the same ratio, and as it was trained.

    python examples/compare_runs.py outputs/dense-0 outputs/dense-1 outputs/aware-0 outputs/aware-1
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path


def read(run: Path) -> tuple[float, dict[float, float], float]:
    """The ratio that the run was trained for, the accuracy at each ratio in per cent, and the seconds per step."""
    trained_for = json.loads((run / "config.json").read_text())["pitome"]["ratio"]
    results = json.loads((run / "results.json").read_text())
    seconds = results.pop("train_seconds_per_step")
    accuracies = {}
    for name, accuracy in results.items():
        ratio = name.removeprefix("eval_").removesuffix("accuracy").strip("_r")
        accuracies[float(ratio) if ratio else trained_for] = 100 * accuracy
    return trained_for, accuracies, seconds


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard error."""
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    kinds: dict[str, dict[str, tuple]] = defaultdict(dict)
    for run in parser.parse_args().runs:
        if not (run / "results.json").exists():
            parser.error(f"{run} has no results.json: it is not the output folder of a run that has ended.")
        kind, _, seed = run.name.rpartition("-")
        kinds[kind][seed] = read(run)
    first = next(iter(kinds))
    row = "{:>16} {:>6} {:>16} {:>22} {:>22} {:>10}"
    print(row.format("run", "ratio", "accuracy, %", "- the same ratio", f"- {first}", "s / step"))
    for kind, seeds in kinds.items():
        ratios = sorted({ratio for _, accuracies, _ in seeds.values() for ratio in accuracies}, reverse=True)
        for ratio in ratios:
            found = {seed: run[1][ratio] for seed, run in seeds.items() if ratio in run[1]}
            same, trained = [], []
            for seed, accuracy in found.items():
                if kind != first and seed in kinds[first]:
                    own_ratio, accuracies, _ = kinds[first][seed]
                    trained.append(accuracy - accuracies[own_ratio])
                    same.extend([accuracy - accuracies[ratio]] if ratio in accuracies else [])
            differences = [spread(values, "+") if values else "" for values in (same, trained)]
            seconds = statistics.median(run[2] for run in seeds.values())
            print(row.format(kind, ratio, spread(list(found.values())), *differences, f"{seconds:.3g}"))


if __name__ == "__main__":
    main()
