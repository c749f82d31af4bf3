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

"""A model hub on 127.0.0.1 that speaks to the real `huggingface_hub` client what the Hub speaks to it.

Repositories live in memory: commits, branches, tags, git and LFS files, private ones, tokens. As on the Hub a new one
has a first commit, with `.gitattributes`. Xet is not spoken; clients are started with `HF_HUB_DISABLE_XET=1`.
`Hub.fail` makes requests fail in the ways a network does; a client asks for that under `/test/fail`, `/test/recover`.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from hub.api import Api, Refused
from hub.repository import Repository


@dataclass
class Failure:
    """Of the requests that match, `times` fail: with a status, by hanging up within the request's body (`"hang up"`),
    or with half of the answer: `"cut"` hangs up then, `"short"` pretends that this was all."""

    method: str
    path: str
    how: int | str
    times: int


class Hub:
    """The server. `with Hub() as hub: ... hub.url`.

    Attributes:
        tokens (`dict[str, str]`): access token → user; each user may write to the namespace of that name.
        repositories (`dict[str, Repository]`): by `namespace/name`.
        requests (`list[str]`): `METHOD path status` of everything that was asked.
    """

    def __init__(self):
        self.tokens = {"hf_me": "me", "hf_other": "other"}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._failures: list[Failure] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, path: str, how: int | str, times: int = 10**9) -> None:
        """Requests with `method` whose path contains the pattern `path` fail, see [`Failure`]."""
        self._failures.append(Failure(method, path, how, times))

    def recover(self) -> None:
        self._failures.clear()

    def failure(self, method: str, path: str) -> int | str | None:
        with self.lock:
            for failure in self._failures:
                if failure.times and failure.method == method and re.search(failure.path, path):
                    failure.times -= 1
                    return failure.how
        return None

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """What a commit holds, without `.gitattributes`."""
        found = self.repositories[repository]
        files = found.commits[found.resolve(revision)]
        return {path: file.data for path, file in files.items() if path != ".gitattributes"}

    def titles(self, repository: str) -> list[str]:
        return list(self.repositories[repository].titles.values())[1:]


class _Handler(Api, BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        hub, method = self.hub, self.command
        self.url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if self.url.path == "/test/fail":
            hub.fail(**json.loads(self.rfile.read(length)))
            return self._answer(200, {}, b"", None)
        if self.url.path == "/test/recover":
            hub.recover()
            return self._answer(200, {}, b"", None)
        how = hub.failure(method, self.url.path)
        if how == "hang up":
            self.rfile.read(length // 2)
            hub.requests.append(f"{method} {self.url.path} hung up")
            self.close_connection = True
            return
        self.body = self._read_body(length)
        status, headers, data = 200, {}, b""
        try:
            if isinstance(how, int):
                raise Refused(how, "This failure was asked for.")
            status, headers, data = self.route()
        except Refused as refused:
            status, headers, data = refused.status, refused.headers, json.dumps({"error": str(refused)}).encode()
        hub.requests.append(f"{method} {self.url.path} {status}")
        self._answer(status, headers, data, how)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _read_body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, headers: dict, data: bytes, how: int | str | None) -> None:
        if how in ("short", "cut") and self.command == "GET":
            sent = data[: len(data) // 2]
            self.close_connection = True
        else:
            sent = data
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent) if how == "short" else len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def log_message(self, *args) -> None:
        pass
