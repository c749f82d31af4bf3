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

"""Repositories of the test hub: commits, branches and tags, git and LFS files, all in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool = False

    @property
    def oid(self) -> str:
        """git's name of the file; for LFS that of its pointer."""
        return hashlib.sha1(b"blob %d\0" % len(self._stored) + self._stored).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def _stored(self) -> bytes:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return pointer.encode() if self.lfs else self.data


@dataclass
class Repository:
    name: str
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File], title: str) -> str:
        listing = json.dumps([self.name, len(self.commits), title, {path: file.oid for path, file in files.items()}])
        oid = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[oid], self.titles[oid], self.refs[branch] = files, title, oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or next((oid for oid in self.commits if oid.startswith(revision)), None)
