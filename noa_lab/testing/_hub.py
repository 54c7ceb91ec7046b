"""A local hub that speaks the Hugging Face API as huggingface_hub uses it: repositories, revisions, gates, and a storage elsewhere.

What the hub of 2026 does and a client may rely on: `/api/models/REPO/revision/REV?blobs=True` lists the files with sizes and hashes;
`/REPO/resolve/REV/FILE` redirects a large file to a signed address on another host, and says in `X-Repo-Commit`, `X-Linked-Etag` and
`X-Linked-Size` what it leads to; a refusal carries `X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

from noa_lab.testing._file_server import FileFault, FileRequest, FileServer, QuietServer

__all__ = ["FakeHub", "HubFault"]

HubFault = Literal["", "down", "busy", "silent", "nonsense", "no commit"]
"""What goes wrong with the hub itself: 503, 429 with a long Retry-After, no answer, an answer that is no JSON, one without a commit."""

_API = re.compile(r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)(?:/revision/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_SMALL = 1000
"""Files up to this size are kept in git itself, without a sha256, and answered without a redirect."""


@dataclass(slots=True)
class _Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


class FakeHub:
    """A hub and its storage, two servers on loopback under two names; a context manager.

    Attributes:
        url: Its address: what HF_ENDPOINT has to be.
        token: The one token that may see private and gated repositories; for gated ones after `accept`.
        storage: Where the large files are; its paths are `/SHA256`.
        requests: Every request to the hub, in order.
    """

    def __init__(self) -> None:
        self.storage = FileServer("localhost")
        self.requests: list[FileRequest] = []
        self.token = "hf_secret"  # noqa: S105 - of this fake
        self.fault: HubFault = ""
        self.signatures = 0
        self.closing = threading.Event()
        self._accepted = False
        self._repositories: dict[str, _Repository] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = QuietServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake-hub", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both servers."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.storage.close()

    def push(
        self, repo: str, files: Mapping[str, bytes], *, branch: str = "main", gated: bool = False, private: bool = False
    ) -> str:
        """Make a commit that holds just these files; returns its hash."""
        made = self._repositories.setdefault(repo, _Repository())
        made.gated, made.private = gated, private
        commit = hashlib.sha1(f"{repo}{len(made.commits)}".encode(), usedforsecurity=False).hexdigest()
        made.commits[commit], made.branches[branch] = dict(files), commit
        for data in files.values():
            self.storage.put(_path(data), data)
        return commit

    def fail(self, data: bytes, *faults: FileFault) -> None:
        """Script what happens to the requests for a file's bytes at the storage."""
        self.storage.fail(_path(data), *faults)

    def asked(self, data: bytes) -> int:
        """Bytes of a file that were asked for: see `FileServer.asked`."""
        return self.storage.asked(_path(data))

    def sent(self, data: bytes) -> int:
        """Bytes of a file that the storage has sent."""
        return self.storage.sent[_path(data)]

    def accept(self) -> None:
        """Accept the licences for the token."""
        self._accepted = True

    def look(self, repo: str, revision: str, token: str) -> tuple[str, dict[str, bytes], str]:
        """The commit and files of a revision, or the error code that the hub answers with."""
        found = self._repositories.get(repo)
        if found is None or (found.private and token != self.token):
            return "", {}, "RepoNotFound"
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            return "", {}, "RevisionNotFound"
        return commit, found.commits[commit], ""

    def is_shut(self, repo: str, token: str) -> bool:
        """Whether a gate keeps the token from the files."""
        return self._repositories[repo].gated and not (self._accepted and token == self.token)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._answer()

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(FileRequest(self.command, path, headers))
        token = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            if self.hub.fault in ("down", "busy", "silent"):
                self._fail()
            elif (match := _API.fullmatch(path)) is not None:
                blobs = "true" in parse_qs(parts.query).get("blobs", [""])[0].lower()
                self._describe(match["repo"], match["revision"] or "main", token, blobs=blobs)
            elif (match := _RESOLVE.fullmatch(path)) is not None:
                self._resolve(match["repo"], match["revision"], match["file"], token)
            else:
                self._send(404, {})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _fail(self) -> None:
        if self.hub.fault == "silent":
            self.hub.closing.wait(60)
            self.close_connection = True
        elif self.hub.fault == "busy":
            self._send(429, {"Retry-After": "1800"})
        else:
            self._send(503, {})

    def _describe(self, repo: str, revision: str, token: str, *, blobs: bool) -> None:
        commit, files, error = self.hub.look(repo, revision, token)
        if error:
            self._refuse(error)
        elif self.hub.fault == "nonsense":
            self._send(200, {"Content-Type": "text/html"}, b"<html>log in first</html>")
        else:
            siblings = [_sibling(name, data, blobs=blobs) for name, data in files.items()]
            facts = {"id": repo, "modelId": repo, "siblings": siblings, "private": False, "gated": False}
            facts |= {} if self.hub.fault == "no commit" else {"sha": commit}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(facts).encode())

    def _resolve(self, repo: str, revision: str, file: str, token: str) -> None:
        commit, files, error = self.hub.look(repo, revision, token)
        if not error and self.hub.is_shut(repo, token):
            self._refuse("GatedRepo", status=403 if token else 401)
        elif error:
            self._refuse(error)
        elif file not in files:
            self._refuse("EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._lead(files[file], commit)

    def _lead(self, data: bytes, commit: str) -> None:
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) <= _SMALL:
            self._send(200, headers | {"ETag": f'"{_git_hash(data)}"'}, data)
            return
        digest = hashlib.sha256(data).hexdigest()
        self.hub.signatures += 1
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "ETag": f'"{digest}"'}
        location = f"{self.hub.storage.url}/{digest}?signature={self.hub.signatures}"
        self._send(302, headers | {"Location": location})

    def _refuse(self, code: str, headers: Mapping[str, str] | None = None, *, status: int = 404) -> None:
        status = 401 if code == "RepoNotFound" else status
        self._send(status, {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _sibling(name: str, data: bytes, *, blobs: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"rfilename": name}
    if blobs:
        facts |= {"size": len(data), "blobId": _git_hash(data)}
        if len(data) > _SMALL:
            facts["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return facts


def _path(data: bytes) -> str:
    """Where the storage has a file."""
    return f"/{hashlib.sha256(data).hexdigest()}"
