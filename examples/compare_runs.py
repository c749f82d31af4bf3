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
from pathlib import Path

import pandas


def read(run: Path) -> list[dict]:
    """The accuracies of a run in per cent, one row per ratio, and the seconds per step."""
    trained_for = json.loads((run / "config.json").read_text())["pitome"]["ratio"]
    results, rows = json.loads((run / "results.json").read_text()), []
    about = dict(zip(("kind", "seed"), run.name.rsplit("-", 1)), seconds=results.pop("train_seconds_per_step"))
    for name, accuracy in results.items():
        ratio = name.removeprefix("eval_").removesuffix("accuracy").strip("_r")
        rows.append({**about, "ratio": float(ratio or trained_for), "own": not ratio, "accuracy": 100 * accuracy})
    return rows


def spread(values: pandas.Series, sign: str = "") -> str:
    """Mean and standard error over the seeds."""
    values = values.dropna()
    error = f" ± {values.sem():.2f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.2f}{error}" if len(values) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    for run in runs:
        if not (run / "results.json").exists():
            parser.error(f"{run} has no results.json: it is not the output folder of a run that has ended.")
    rows = pandas.DataFrame([row for run in runs for row in read(run)])
    first = rows[rows.kind == rows.kind[0]]
    same, trained = first.set_index(["seed", "ratio"]).accuracy, first[first.own].set_index("seed").accuracy
    columns, table = ["run", "ratio", "accuracy, %", "- the same ratio", f"- {first.kind[0]}", "s / step"], []
    for kind, of_kind in rows.groupby("kind", sort=False):
        for ratio, found in sorted(of_kind.groupby("ratio"), reverse=True):
            differences = ["", ""]
            if kind != first.kind[0]:
                found = found.set_index("seed")
                at_ratio = same[same.index.get_level_values("ratio") == ratio].droplevel("ratio")
                differences = [spread(found.accuracy - other, "+") for other in (at_ratio, trained)]
            seconds = of_kind.groupby("seed").seconds.first().median()
            table.append([kind, ratio, spread(found.accuracy), *differences, f"{seconds:.3g}"])
    print(pandas.DataFrame(table, columns=columns).to_string(index=False))


if __name__ == "__main__":
    main()
