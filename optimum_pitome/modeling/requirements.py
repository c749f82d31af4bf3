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

"""Which versions of other packages this one supports, from its own metadata (`install_requires` in setup.cfg), and
which are installed."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Iterable

from packaging.requirements import Requirement


@functools.cache
def supported(package: str) -> str:
    """For messages: `package` with the range of its supported versions, such as `transformers>=5.13.0,<6`."""
    try:
        lines = importlib.metadata.requires("optimum_pitome") or ()
    except importlib.metadata.PackageNotFoundError:  # run from its sources, without having been installed
        lines = ()
    for requirement in map(Requirement, lines):
        if requirement.name == package and requirement.marker is None:
            return package + ",".join(sorted(map(str, requirement.specifier), reverse=True))
    return f"a version of {package} from install_requires in optimum_pitome's setup.cfg"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Those of the `packages` that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
