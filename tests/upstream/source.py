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
"""Makes a folder with transformers' shared test suites, and test cases over our tiny models beside them.

    python -m upstream.source build/upstream/transformers-5.24.0.tar.gz build/upstream/transformers

The source distribution has the suites that all models share, but neither the tests of each model nor two modules that
the suites import: those are empty here, so that exporting and `generate` are not tested.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

from .suites import folders


_MISSING = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}
_TESTS_OF_A_FOLDER = """from upstream.suites import test_cases


globals().update(test_cases("{folder}", "tests"))
del test_cases
"""


def unpack(archive: Path, checkout: Path) -> None:
    """Writes `checkout/tests` anew."""
    tests = checkout / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            inside = member.name.partition("/")[2]
            if member.isfile() and Path(inside).parent == Path("tests"):
                _write(checkout / inside, packed.extractfile(member).read().decode())
    # Without it, pytest takes the settings of this repository.
    _write(checkout / "pytest.ini", "[pytest]\nfilterwarnings = ignore\n")
    for name, text in _MISSING.items():
        _write(tests / name, text)
    for folder in folders():
        _write(tests / "models" / folder / f"test_modeling_{folder}.py", _TESTS_OF_A_FOLDER.format(folder=folder))
    for folder in [tests, *(path for path in tests.rglob("*") if path.is_dir())]:
        _write(folder / "__init__.py", "")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
