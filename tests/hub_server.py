"""A model hub on 127.0.0.1 for the real huggingface_hub client: its HTTP protocol, repositories in memory.

Spoken here: create, branches, model info, tree, paths info, preupload, LFS batch (basic) with upload and verify, commit
(NDJSON), resolve with ETag, Range, X-Repo-Commit and the redirect of LFS files, the hub's status and error codes. A
Space has the same routes. Not spoken: Xet, so clients need ``HF_HUB_DISABLE_XET=1``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITE_TOKEN, READ_TOKEN = "hf_write_secret_7Qd2", "hf_read_secret_9Xk4"
_LFS = (".safetensors", ".onnx", ".png")


@dataclass
class Commit:
    """One revision: path -> content."""

    sha: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Branches of commits."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        sha = secrets.token_hex(20)
        self.commits[sha] = Commit(sha, files)
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Fault:
    """What happens instead of an answer to the next ``times`` requests that match ``"METHOD /path"``.

    ``status`` answers with it and ``headers``; ``change`` answers 200 with a changed body; ``cut`` closes the
    connection after so many bytes of the body; ``hold`` waits for the event first.
    """

    pattern: str
    times: int = 1_000_000
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    change: Callable[[bytes], bytes] | None = None
    cut: int | None = None
    hold: threading.Event | None = None


class HubServer(ThreadingHTTPServer):
    """``with HubServer() as hub: hub.url``; ``requests`` is the log of method, path and headers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.waits: list[float] = []  # what the client would have slept, where a fixture keeps it from it
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error of the server."""

    def count(self, pattern: str) -> int:
        """Requests so far whose ``"METHOD /path"`` matches."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path, _ in self.requests)

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    # what every answer has in common

    def _answer(self) -> None:
        self.path = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        request = f"{self.command} {self.path}"
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers))
        self.fault = self.server.fault_for(request)
        if self.fault and self.fault.hold:
            self.fault.hold.wait(60)
        if self.fault and self.fault.status:
            self._send(self.fault.status, b"not today", self.fault.headers)
            return
        # A Space has the routes of a model; it is kept under "spaces:ORG/NAME".
        as_model = re.sub(
            r"^(\w+) (/api)?/spaces/", lambda m: f"{m[1]} {'/api/models' if m[2] else ''}/spaces:", request
        )
        for pattern, method in _ROUTES:
            if match := re.fullmatch(pattern, as_model):
                groups = {k: unquote(v) for k, v in match.groupdict().items()}
                with self.server.lock:
                    answer = method(self, **groups)
                self._send(*answer)
                return
        self._send(*_error(404, "NotFound", f"nothing at {request}"))

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = dict(headers or {})
        if self.fault and self.fault.change:
            data = self.fault.change(data)
        if status == 200 and (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            status, start, whole = 206, int(match[1]), len(data)
            data = data[start:]
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut is not None:
            self.wfile.write(data[: self.fault.cut])
            self.close_connection = True
            return
        self.wfile.write(data)

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _refused(self, *, writing: bool) -> tuple[int, Any, dict[str, str]] | None:
        if self._token not in ("", WRITE_TOKEN, READ_TOKEN):
            return _error(401, "", "Invalid credentials in Authorization header")
        if writing and self._token == READ_TOKEN:
            return _error(403, "", "You don't have the rights to create a model under this namespace")
        if writing and not self._token:
            return _error(401, "", "Invalid username or password.")
        return None

    def _repository(self, repo: str) -> Repository | None:
        found = self.server.repositories.get(repo)
        return found if found and (self._token or not found.private) else None

    def _missing(self) -> tuple[int, Any, dict[str, str]]:
        return _error(404 if self._token else 401, "RepoNotFound", "Repository not found")

    # the routes

    def create(self) -> tuple[int, Any, dict[str, str]]:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if asked.get("type") == "space":
            if asked.get("sdk") != "static":
                return _error(400, "", "a Space needs an sdk")
            repo = f"spaces:{repo}"
        url = f"{self.server.url}/{repo.replace(':', '/')}"
        if refused := self._refused(writing=True):
            return refused
        if repo in self.server.repositories:
            status, body, headers = _error(409, "", "You already created this model repo")
            return status, body | {"url": url}, headers
        self.server.repositories[repo] = Repository(asked.get("visibility") == "private")
        self.server.repositories[repo].add("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return 200, {"url": url, "name": repo.removeprefix("spaces:")}, {}

    def branch(self, repo: str, branch: str) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo)
        if found is None:
            return self._missing()
        if branch in found.branches:
            return _error(409, "", "Reference already exists")
        start = found.find(json.loads(self.body or b"{}").get("startingPoint", "main"))
        assert start is not None
        found.branches[branch] = start.sha
        return 200, {}, {}

    def info(self, repo: str, revision: str = "main") -> tuple[int, Any, dict[str, str]]:
        if (refused := self._refused(writing=False)) or (found := self._repository(repo)) is None:
            return refused or self._missing()
        if (commit := found.find(revision)) is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": path} for path in commit.files]
        repo = repo.removeprefix("spaces:")
        return 200, {"id": repo, "modelId": repo, "sha": commit.sha, "private": found.private, "siblings": siblings}, {}

    def tree(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo)
        if found is None or (commit := found.find(revision)) is None:
            return self._missing()
        return 200, _rows(commit), {}

    def paths_info(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        found = self._repository(repo)
        if found is None or (commit := found.find(revision)) is None:
            return self._missing()
        wanted = parse_qs(self.body.decode())["paths"]
        return 200, [row for row in _rows(commit) if row["path"] in wanted], {}

    def validate(self) -> tuple[int, Any, dict[str, str]]:
        text = json.loads(self.body)["content"]
        ok = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
        return (200, {"errors": [], "warnings": []}, {}) if ok else (400, {"errors": [{"message": "no metadata"}]}, {})

    def preupload(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        if (refused := self._refused(writing=True)) or (found := self._repository(repo)) is None:
            return refused or self._missing()
        if (commit := found.find(revision)) is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(_LFS) else "regular"
            old = commit.files.get(file["path"])
            oid = None if old is None else _sha256(old) if mode == "lfs" else _git_oid(old)
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}, {}

    def batch(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        if (refused := self._refused(writing=True)) or self._repository(repo) is None:
            return refused or self._missing()
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = dict(wanted)
            if wanted["oid"] not in self.server.lfs:
                upload = {"href": f"{self.server.url}/lfs/{wanted['oid']}"}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/verify/{wanted['oid']}"}}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def upload(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        if _sha256(self.body) != oid:
            return _error(400, "", "content does not have this sha256")
        self.server.lfs[oid] = self.body
        return 200, {}, {"ETag": f'"{oid}"'}

    def verify(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        asked = json.loads(self.body)
        known = self.server.lfs.get(oid)
        return (200, {}, {}) if known is not None and len(known) == asked["size"] else _error(404, "", "not uploaded")

    def commit(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        if (refused := self._refused(writing=True)) or (found := self._repository(repo)) is None:
            return refused or self._missing()
        if (parent := found.find(revision)) is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        files = dict(parent.files)
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit", parent.sha) != parent.sha:
                return _error(412, "", "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.lfs:
                    return _error(400, "", "LFS pointer to an unknown object")
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = found.add(revision, files)
        url = f"{self.server.url}/{repo}/commit/{sha}"
        return 200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""}, {}

    def resolve(self, repo: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        if (refused := self._refused(writing=False)) or (found := self._repository(repo)) is None:
            return refused or self._missing()
        if (commit := found.find(revision)) is None:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        common = {"X-Repo-Commit": commit.sha}
        if (data := commit.files.get(path)) is None:
            status, body, headers = _error(404, "EntryNotFound", "Entry not found")
            return status, body, headers | common
        if not path.endswith(_LFS):
            return 200, data, common | {"ETag": f'"{_git_oid(data)}"', "Accept-Ranges": "bytes"}
        linked = {"X-Linked-Etag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
        self.server.lfs.setdefault(_sha256(data), data)
        # the file lies on another host, as the hub's CDN does: the client must not send its token there
        elsewhere = self.server.url.replace("127.0.0.1", "localhost")
        return 302, b"", common | linked | {"Location": f"{elsewhere}/cdn/{_sha256(data)}"}

    def cdn(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        return 200, self.server.lfs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}


def _rows(commit: Commit) -> list[dict[str, Any]]:
    rows = []
    for path, data in commit.files.items():
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
        if path.endswith(_LFS):
            row["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 134}
        rows.append(row)
    return rows


def _error(status: int, code: str, message: str) -> tuple[int, Any, dict[str, str]]:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return status, {"error": message}, headers


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_REPO = r"(?P<repo>(?:spaces:)?[\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., tuple[int, Any, dict[str, str]]]]] = [
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate),
    (f"POST /api/models/{_REPO}/branch/(?P<branch>[^/]+)", _Handler.branch),
    (f"POST /api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (f"POST /api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (f"GET /api/models/{_REPO}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (f"POST /api/models/{_REPO}/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    (f"GET /api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    (f"GET /api/models/{_REPO}", _Handler.info),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    ("POST /verify/(?P<oid>[0-9a-f]{64})", _Handler.verify),
    (f"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("(?:GET|HEAD) /cdn/(?P<oid>[0-9a-f]{64})", _Handler.cdn),
]
