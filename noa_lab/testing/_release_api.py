"""A local server that imitates GitHub's release API and its file storage, or a mirror of both, with faults by script."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

__all__ = ["FakeReleaseApi", "Fault", "SeenRequest"]

FaultKind = Literal[
    "truncated", "wrong bytes", "redirect loop", "redirect away", "404", "rate limit", "server error", "stall", "silent", "slow",
    "ignores range", "changed", "changed unseen", "wrong range", "web page", "garbage", "too long", "compressed", "leads to http",
    "no length", "no validator",
]  # fmt: skip
"""truncated: closes after `after` bytes. stall: the same, but stays open and silent. silent: not even a head. slow: a few bytes at a
time. ignores range: answers 200 and everything to a range. changed: the file is another one, with another ETag, from the first
request with a range on. changed unseen: the same, by a server that does not look at If-Range. wrong range: 206 with another range
than asked for. redirect away: an API path leads to the storage's host, which answers. garbage: no JSON, or zeros. leads to http:
redirects to a plain address outside. no length: neither a length nor a size. no validator: neither an ETag nor a date."""

_REPOSITORY = "/repos/ggml-org/llama.cpp/releases"


@dataclass(frozen=True, slots=True)
class Fault:
    """How requests for one file, or one API path, go wrong.

    Attributes:
        kind: What happens.
        times: To how many requests; the ones after them are answered well.
        after: Bytes that are sent first, where that means something.
        seconds: Of a pause, where there is one.
    """

    kind: FaultKind
    times: int = 1_000_000
    after: int = 0
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request as it arrived: path and headers (names in lower case)."""

    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class _Release:
    tag: str
    files: dict[str, bytes]
    prerelease: bool
    digests: bool


@dataclass(slots=True)
class _State:
    releases: dict[str, _Release] = field(default_factory=dict)
    latest: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    requests: list[SeenRequest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)


class FakeReleaseApi:
    """Two servers on loopback: the API (which redirects downloads, as github.com does) and the storage that they lead to.

    Use it as a context manager. `base_url` stands for api.github.com (pass it as `api`), or for a mirror (pass it as `mirror`): it
    serves `/repos/ggml-org/llama.cpp/releases/...` and `/download/<tag>/<name>`.

    Attributes:
        base_url: Address of the API.
        storage_url: Address of the storage.
    """

    def __init__(self) -> None:
        self._state = _State()
        self._storage = _Server(self._state, "")
        self.storage_url = self._storage.url
        self._api = _Server(self._state, self.storage_url)
        self.base_url = self._api.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both servers; requests that are being answered are cut."""
        self._state.closing.set()
        self._api.close()
        self._storage.close()

    def publish(
        self, tag: str, files: Mapping[str, bytes | Path], *, prerelease: bool = True, digests: bool = True
    ) -> None:
        """Add a release, or replace one. Listings have the last one that was added first.

        Args:
            tag: Its tag; "latest" is the newest one that is no prerelease, as on GitHub.
            files: Content of each file, or where it is.
            prerelease: Whether it is marked as one.
            digests: Whether the listing has GitHub's digests (releases of before 2025 have none).
        """
        contents = {name: data.read_bytes() if isinstance(data, Path) else data for name, data in files.items()}
        self._state.releases[tag] = _Release(tag, contents, prerelease, digests)
        if not prerelease:
            self._state.latest = tag

    def publish_stable(self, tag: str, nightly: str) -> None:
        """Add a release like v0.6.0: no programs, only the name of the nightly that has them."""
        self.publish(tag, {"nightly-tag.txt": f"{nightly}\n".encode()}, prerelease=False)

    def fail(self, what: str, fault: Fault | None) -> None:
        """Script what happens to a file's name, or to an API path's end ("tags/b11312", "latest", "releases"); None: all is well."""
        self._state.used.pop(what, None)
        if fault is None:
            self._state.faults.pop(what, None)
        else:
            self._state.faults[what] = fault

    def served_bytes(self, name: str) -> int:
        """Bytes of a file that were sent, over all requests."""
        return self._state.served[name]

    @property
    def requests(self) -> list[SeenRequest]:
        """Every request to either server, in order."""
        return list(self._state.requests)

    def requests_for(self, name: str) -> list[SeenRequest]:
        """Requests to the storage for a file."""
        return [request for request in self.requests if request.path == f"/storage/{name}"]


class _Server:
    """One loopback server in a thread of its own."""

    def __init__(self, state: _State, storage_url: str) -> None:
        handler = type("Handler", (_Handler,), {"state": state, "storage_url": storage_url})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="fake-release-api", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: _State
    storage_url: str
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.state.lock:
            self.state.requests.append(SeenRequest(path, headers))
        try:
            if path.startswith("/storage/"):
                self._file(path.removeprefix("/storage/").rsplit("/", 1)[-1])
            elif path.startswith(_REPOSITORY):
                self._api(path.removeprefix(_REPOSITORY).strip("/"))
            else:
                self._download(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # ---- the API

    def _api(self, path: str) -> None:
        fault = self._fault(path or "releases")
        if fault is not None:
            self._common(fault)
            if fault.kind == "garbage":
                self._send(200, b"<html>log in first</html>", {"Content-Type": "text/html"})
            elif fault.kind == "slow":
                self._drip(b" " * 10_000_000, fault, {"Content-Length": "10000000"})
            return
        if path == "":
            asked = parse_qs(urlsplit(self.path).query)
            size, page = int(asked.get("per_page", ["30"])[0]), int(asked.get("page", ["1"])[0])
            listing = list(self.state.releases.values())[::-1][size * (page - 1) : size * page]
            self._json([self._describe(release) for release in listing])
            return
        tag = self.state.latest if path == "latest" else path.removeprefix("tags/")
        release = self.state.releases.get(tag)
        if release is None:
            self._send(404, b'{"message": "Not Found"}')
        else:
            self._json(self._describe(release))

    def _describe(self, release: _Release) -> dict[str, Any]:
        base = f"http://{self.headers['Host']}/ggml-org/llama.cpp/releases/download/{release.tag}"
        return {
            "tag_name": release.tag,
            "prerelease": release.prerelease,
            "draft": False,
            "assets": [
                {
                    "name": name,
                    "state": "uploaded",
                    "size": len(data),
                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}" if release.digests else None,
                    "browser_download_url": f"{base}/{name}",
                }
                for name, data in release.files.items()
            ],
        }

    # ---- downloads

    def _download(self, path: str) -> None:
        """What github.com does with a download, and a mirror with its own: send the client on to the storage."""
        found = re.fullmatch(r"(?:/[\w.-]+/[\w.-]+/releases)?/download/([\w.-]+)/([\w.+-]+)", path)
        release = self.state.releases.get(found[1]) if found else None
        if found is None or release is None or found[2] not in release.files:
            self._send(404, b"Not Found")
            return
        fault = self.state.faults.get(found[2])
        if fault is not None and fault.kind == "redirect loop":
            self._send(302, b"", {"Location": path})
        elif fault is not None and fault.kind == "leads to http":
            self._send(302, b"", {"Location": "http://example.invalid/file"})
        else:
            self._send(302, b"", {"Location": f"{self.storage_url}/storage/{found[2]}?signature=secret"})

    def _file(self, name: str) -> None:
        data = next((each.files[name] for each in self.state.releases.values() if name in each.files), None)
        if data is None:
            self._send(404, b"Not Found")
            return
        fault = self._fault(name)
        if fault is not None and fault.kind in ("404", "rate limit", "server error", "silent"):
            self._common(fault)
            return
        kind = fault.kind if fault else ""
        if kind in ("wrong bytes", "garbage"):
            data = bytes(len(data))
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if kind in ("changed", "changed unseen") and asked:
            data = data[::-1]
            etag = '"another"'
        if kind == "ignores range" or (
            asked and kind != "changed unseen" and self.headers.get("If-Range", etag) != etag
        ):
            asked = None
        start = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        if start >= len(data) and asked:
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        if kind == "wrong range" and asked:
            start, end = max(0, start - 7), end - 7
        headers = {} if kind == "no validator" else {"ETag": etag}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._body(206 if asked else 200, name, data[start:end], headers, fault)

    def _body(self, status: int, name: str, body: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        if kind == "web page":
            headers["Content-Type"] = "text/html; charset=utf-8"
        if kind == "compressed":
            headers["Content-Encoding"] = "gzip"
        if kind == "no length":
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(len(body) + (1000 if kind == "too long" else 0))
        self.send_response(status)
        for header, value in {"Content-Type": "application/octet-stream", **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if kind == "slow" and fault is not None:
            self._trickle(body, fault)
            return
        sent = body[: fault.after] if fault and kind in ("truncated", "stall") else body
        for start in range(0, len(sent), 2**16):
            piece = sent[start : start + 2**16]
            self.wfile.write(piece)
            self.state.served[name] += len(piece)
        self.wfile.flush()
        if kind == "stall" and fault is not None:
            self.state.closing.wait(fault.seconds)
        if kind in ("truncated", "stall", "too long", "no length"):
            self.close_connection = True

    # ---- parts

    def _fault(self, what: str) -> Fault | None:
        with self.state.lock:
            fault = self.state.faults.get(what)
            if fault is None or self.state.used[what] >= fault.times:
                return None
            self.state.used[what] += 1
            return fault

    def _common(self, fault: Fault) -> None:
        """The faults that files and the API share."""
        if fault.kind == "404":
            self._send(404, b"Not Found")
        elif fault.kind == "server error":
            self._send(503, b"down")
        elif fault.kind == "rate limit":
            reset = str(int(time.time()) + 1800)
            self._send(403, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})
        elif fault.kind == "redirect loop":
            self._send(302, b"", {"Location": self.path})
        elif fault.kind == "redirect away":
            self._send(302, b"", {"Location": f"{self.storage_url}{self.path}"})
        elif fault.kind == "silent":
            self.state.closing.wait(fault.seconds)
            self.close_connection = True

    def _drip(self, body: bytes, fault: Fault, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        self._trickle(body, fault)

    def _trickle(self, body: bytes, fault: Fault) -> None:
        """Three bytes at a time, forever as far as a client is concerned."""
        until = time.monotonic() + fault.seconds
        for start in range(0, len(body), 3):
            self.wfile.write(body[start : start + 3])
            self.wfile.flush()
            if self.state.closing.wait(0.05) or time.monotonic() > until:
                break
        self.close_connection = True

    def _json(self, data: object) -> None:
        self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json; charset=utf-8"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
