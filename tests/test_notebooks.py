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

"""The notebooks of examples/notebooks, run from the first cell to the last, each in a kernel of its own."""

import os
import re
from pathlib import Path

import pytest


nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")
ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
#: What the outputs say, by notebook.
EXPECTED = {
    "quickstart": (
        r"257 tokens|257 +-> +",
        r"cosine to the dense embedding: 0\.9\d\d\d",
        r"ms dense, .* ms merged",
        "dense inside the block: True\n.*dense for good: True",
        "'flops_ratio': 1.8",
    ),
    "retrieval": (
        r"3\d documents of",
        r"\ndense \[\(\d+",
        r"\nmerged \[\(\d+",
        r"1\.35 times fewer operations: \d+ of 8 stay",
    ),
    "llava": (
        "dense: 144\nmerged: 48\n",
        r"logits, which are those of the short prompt: \(1, \d+, \d+\)",
        r"ms dense, .* ms merged",
    ),
}
PICTURES = {"quickstart": 2, "retrieval": 0, "llava": 2}


def read(path):
    return nbformat.read(path, as_version=4)


def test_every_notebook_is_here():
    assert {path.stem for path in NOTEBOOKS} == set(EXPECTED) == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_whole_and_hold_no_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert all(
        not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code"
    )
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / target).exists(), target


@pytest.mark.real
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch, tmp_path):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    for name, value in {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "IPYTHONDIR": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    notebook = read(path)
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()  # raises with the cell and its error
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    text = "".join(
        output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "") + "\n"
        for output in outputs
        if output.get("name") != "stderr"
    )
    for expected in EXPECTED[path.stem]:
        assert re.search(expected, text), (expected, text)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[path.stem]
