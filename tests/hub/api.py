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

"""The endpoints of the test hub: what the client asks for, and what the Hub answers."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from urllib.parse import parse_qs, unquote

import yaml
from hub.repository import File, Repository


LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx")
DATE = "2026-01-01T00:00:00.000Z"


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message}
        if code:
            self.headers["X-Error-Code"] = code
        if commit:
            self.headers["X-Repo-Commit"] = commit


class Api:
    """Answers one request. The handler in `server.py` sets `hub`, `command`, `url`, `headers` and `body`; an answer is
    the status, the headers, and the body."""

    def route(self):
        for pattern, method in _ROUTES:
            verb, _, path = pattern.partition(" ")
            match = re.fullmatch(path, self.url.path)
            if match and self.command in verb.split("|"):
                with self.hub.lock:
                    return getattr(self, method)(*[unquote(part or "") for part in match.groups()])
        raise Refused(404, f"{self.command} {self.url.path} is not spoken here.")

    def _user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def _repository(self, name: str, write: bool = False) -> Repository:
        user, repository = self._user(), self.hub.repositories.get(name)
        owner = name.partition("/")[0]
        if repository is None or (repository.private and user != owner):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise Refused(403 if user else 401, f"You have no permission to write to {owner}")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> tuple[str, dict[str, File]]:
        oid = repository.resolve(revision or "main")
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    def _json(self, value, **headers):
        return 200, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()

    def who_am_i(self):
        user = self._user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        return self._json({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {}})

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(match.group(1)) if match else {}
        except yaml.YAMLError as error:
            return 400, {}, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode()
        missing = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        return self._json({"errors": [], "warnings": missing})

    def create(self):
        wish, user = json.loads(self.body), self._user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        owner = wish.get("organization") or user
        name = f"{owner}/{wish['name']}"
        if owner != user:
            raise Refused(403, f"You don't have the rights to create a model under the namespace {owner}")
        answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            return 409, {}, json.dumps({**answer, "error": "You already created this model repo"}).encode()
        private = bool(wish.get("private")) or wish.get("visibility") == "private"
        repository = self.hub.repositories[name] = Repository(name, private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.commit("main", {".gitattributes": File(attributes.encode())}, "initial commit")
        return self._json(answer)

    def branch(self, name, branch):
        repository = self._repository(name, write=True)
        if branch in repository.refs:
            raise Refused(409, "Reference already exists")
        wish = json.loads(self.body or b"{}")
        repository.refs[branch] = self._commit_of(repository, wish.get("startingPoint") or "main")[0]
        return self._json({})

    def tag(self, name, revision):
        repository = self._repository(name, write=True)
        repository.refs[json.loads(self.body)["tag"]] = self._commit_of(repository, revision)[0]
        return self._json({})

    def refs(self, name):
        repository = self._repository(name)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repository.refs.items()]
        return self._json({"branches": branches, "converts": [], "tags": []})

    def preupload(self, name, revision):
        _, present = self._commit_of(self._repository(name, write=True), revision)
        files = []
        for wish in json.loads(self.body)["files"]:
            path = wish["path"]
            lfs = path.endswith(LFS_SUFFIXES) or wish["size"] > 10_000_000
            mode = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            files.append({**mode, **({"oid": present[path].oid} if path in present else {})})
        return self._json({"files": files})

    def lfs_batch(self, name):
        self._repository(name, write=True)
        objects = []
        for wish in json.loads(self.body)["objects"]:
            if wish["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/upload/{wish['oid']}", "header": {}}
                verify = {"href": f"{self.hub.url}/{name}.git/info/lfs/verify"}
                wish = {**wish, "actions": {"upload": upload, "verify": verify}}
            objects.append(wish)
        return self._json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "The checksum does not match.")
        self.hub.objects[oid] = self.body
        return 200, {}, b""

    def lfs_verify(self, name):
        wish = json.loads(self.body)
        if len(self.hub.objects.get(wish["oid"], b"")) != wish["size"]:
            raise Refused(404, "Object was not uploaded.")
        return self._json({})

    def commit(self, name, revision):
        repository = self._repository(name, write=True)
        parent, files = self._commit_of(repository, revision)
        files, title = dict(files), ""
        for line in self.body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refused(400, f"{value['path']}: the LFS object was never uploaded.")
                files[value["path"]] = File(self.hub.objects[value["oid"]], lfs=True)
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise Refused(400, f"{key} is not spoken here.")
        oid = repository.commit(revision, files, title)
        return self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def info(self, name, revision):
        repository = self._repository(name)
        oid, files = self._commit_of(repository, revision)
        answer = {"_id": name, "id": name, "modelId": name, "sha": oid, "private": repository.private, "gated": False}
        answer |= {"author": name.partition("/")[0], "lastModified": DATE, "createdAt": DATE, "disabled": False}
        card = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", File(b"")).data, re.DOTALL)
        data = yaml.safe_load(card.group(1)) if card else {}
        answer |= {"cardData": data, "tags": data.get("tags", []), "library_name": data.get("library_name")}
        answer |= {"pipeline_tag": data.get("pipeline_tag"), "siblings": [{"rfilename": path} for path in files]}
        return self._json(answer)

    def tree(self, name, revision, folder):
        oid, files = self._commit_of(self._repository(name), revision)
        prefix, entries = f"{folder}/" if folder else "", {}
        recursive = parse_qs(self.url.query).get("recursive", ["false"])[0].lower() in ("true", "1")
        for path, file in files.items():
            if path.startswith(prefix):
                first, _, rest = path.removeprefix(prefix).partition("/")
                if rest and not recursive:
                    entries[first] = {"type": "directory", "path": prefix + first, "oid": oid, "size": 0}
                    continue
                entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": len(file.data)}
                if file.lfs:
                    entries[path]["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 130}
        if prefix and not entries:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound", oid)
        return self._json(list(entries.values()))

    def commits(self, name, revision):
        repository = self._repository(name)
        oid, _ = self._commit_of(repository, revision)
        ids = list(itertools.takewhile(lambda other: other != oid, repository.commits)) + [oid]
        rows = [{"id": i, "title": repository.titles[i], "message": "", "authors": [], "date": DATE} for i in ids]
        return self._json(rows[::-1])

    def file(self, name, revision, path):
        oid, files = self._commit_of(self._repository(name), revision)
        if path not in files:
            raise Refused(404, f"Entry not found: {path}", "EntryNotFound", oid)
        file = files[path]
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        headers["ETag"] = f'"{file.sha256 if file.lfs else file.oid}"'
        if file.lfs:
            headers |= {"X-Linked-Size": str(len(file.data)), "X-Linked-ETag": headers["ETag"]}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return 200, headers, file.data
        start, end = int(asked[1]), int(asked[2] or len(file.data) - 1)
        if start >= len(file.data):
            raise Refused(416, "Range not satisfiable")
        part = file.data[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(file.data)}"
        return 206, headers, part


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("GET /api/whoami-v2", "who_am_i"),
    ("POST /api/validate-yaml", "validate_yaml"),
    ("POST /api/repos/create", "create"),
    (f"POST /api/models/{_NAME}/branch/([^/]+)", "branch"),
    (f"POST /api/models/{_NAME}/tag/([^/]+)", "tag"),
    (f"POST /api/models/{_NAME}/preupload/([^/]+)", "preupload"),
    (f"POST /api/models/{_NAME}/commit/([^/]+)", "commit"),
    (f"POST /{_NAME}\\.git/info/lfs/objects/batch", "lfs_batch"),
    (f"POST /{_NAME}\\.git/info/lfs/verify", "lfs_verify"),
    ("PUT /upload/([0-9a-f]{64})", "lfs_upload"),
    (f"GET /api/models/{_NAME}/refs", "refs"),
    (f"GET /api/models/{_NAME}/commits/([^/]+)", "commits"),
    (f"GET /api/models/{_NAME}/tree/([^/]+)/?(.*)", "tree"),
    (f"GET /api/models/{_NAME}(?:/revision/([^/]+))?", "info"),
    (f"GET|HEAD /{_NAME}/resolve/([^/]+)/(.+)", "file"),
]
