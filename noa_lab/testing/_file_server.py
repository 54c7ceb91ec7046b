"""A local file server as storage hosts run them (ranges, ETags, signed addresses), with faults by script and every byte counted."""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
import ssl
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

__all__ = ["FileFault", "FileServer", "Valve"]

FileFaultKind = Literal[
    "drop", "stall", "silent", "slow", "crawl", "whole", "wrong range", "no range", "416", "429", "500", "403", "404", "changed",
    "changed unseen", "flipped", "gzip", "web page", "too long", "no length", "no validator", "loop", "to http", "elsewhere",
]  # fmt: skip
"""drop: closes after `after` bytes of an answer. stall: the same, but stays open and silent. silent: not even a head. slow: three bytes
at a time. crawl: 8 KiB at a time, with `seconds` between. whole: 200 and everything to a request for a part. wrong range: 206 with
another part than asked for. no range: 206 without Content-Range. 429: with Retry-After `seconds`. changed: the file is another one,
with another ETag. changed unseen: the same, by a server that does not look at If-Range. flipped: one bit of the answer is wrong. gzip:
compressed though not asked for. too long: more bytes are announced than there are. no length: neither a length nor a size. no
validator: neither an ETag nor a date. loop: redirects to itself. to http: redirects to a plain address outside. elsewhere: redirects to
the same file on `target`."""


@dataclass(frozen=True, slots=True)
class FileFault:
    """How requests for one file go wrong.

    Attributes:
        kind: What happens.
        times: To how many requests; those after them are answered well.
        first: How many requests are answered well before.
        after: Bytes of an answer that are sent first, where that means something.
        seconds: Of a pause, where there is one.
        target: Address that "elsewhere" leads to.
    """

    kind: FileFaultKind
    times: int = 1
    first: int = 0
    after: int = 0
    seconds: float = 30.0
    target: str = ""


class Valve:
    """Lets so many bytes pass in all, and holds the rest back. Thread-safe."""

    def __init__(self) -> None:
        self._limit: int | None = None
        self.passed = 0
        self._changed = threading.Condition()

    def limit(self, count: int | None) -> None:
        """Let `count` bytes pass, counted from the start; None: all."""
        with self._changed:
            self._limit = count
            self._changed.notify_all()

    def take(self, wanted: int) -> int:
        """Wait for leave to send at least one byte, and say how many; 0 once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._limit is None or self._limit != self.passed)
            count = wanted if self._limit is None else min(wanted, max(self._limit - self.passed, 0))
            self.passed += count
            self._changed.notify_all()
            return count

    def wait_until_passed(self, count: int, seconds: float) -> bool:
        """Wait until `count` bytes have passed; False when that does not happen."""
        with self._changed:
            return self._changed.wait_for(lambda: self.passed >= count, seconds)

    def close(self) -> None:
        """Let everybody go who waits."""
        self.limit(-1)


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One request as it arrived: method, path, headers (names in lower case)."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> tuple[int, int | None] | None:
        """First and last byte asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) if found[2] else None) if found else None


@dataclass(slots=True)
class _Script:
    faults: list[FileFault] = field(default_factory=list)
    seen: int = 0


class FileServer:
    """Serves bytes by path on loopback; a context manager.

    Args:
        name: What its address calls this machine: "127.0.0.1" or "localhost", two hosts as far as a client knows.
        tls: Serve https with this certificate.

    Attributes:
        url: Its address.
        valve: What bodies pass through.
        requests: Every request, in order.
        sent: Body bytes that were sent, by path.
    """

    def __init__(self, name: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> None:
        self.valve = Valve()
        self.requests: list[FileRequest] = []
        self.sent: Counter[str] = Counter()
        self._files: dict[str, bytes] = {}
        self._scripts: dict[str, _Script] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"files": self})
        self._server = QuietServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://{name}:{self.port}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="file-server", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; requests that are being answered are cut."""
        self.closing.set()
        self.valve.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, path: str, data: bytes) -> str:
        """Serve `data` at `path`; returns its address."""
        self._files[path] = data
        return self.url + path

    def fail(self, path: str, *faults: FileFault) -> None:
        """Script what happens to the requests for a path, counted anew; without faults all is well."""
        self._scripts[path] = _Script(list(faults))

    def ranges(self, path: str) -> list[tuple[int, int | None] | None]:
        """The parts of a file that were asked for, in order."""
        return [request.range for request in self.requests if request.path == path]

    def settle(self, seconds: float = 20.0) -> None:
        """Wait for the end of all connections. Of a client that has gone, requests may still be on their way to this server.

        Raises:
            TimeoutError: When somebody stays connected.
        """
        # Connections are accepted in order: once this one is over, those before it have been.
        with socket.create_connection(("127.0.0.1", self.port), seconds) as last:
            last.shutdown(socket.SHUT_WR)
            while last.recv(2**10):
                pass
        self._server.wait_until_unused(seconds)

    def asked(self, path: str) -> int:
        """Bytes of a file that were asked for by their range so far, once no request is on its way any more: see `settle`.

        Raises:
            TimeoutError: When somebody stays connected.
        """
        self.settle()
        return sum(last + 1 - first for first, last in filter(None, self.ranges(path)) if last is not None)

    def data(self, path: str) -> bytes | None:
        """What is served at a path."""
        return self._files.get(path)

    def note(self, request: FileRequest) -> FileFault | None:
        """Remember a request, and say how it goes wrong."""
        with self._lock:
            self.requests.append(request)
            script = self._scripts.get(request.path)
            if script is None:
                return None
            number, script.seen = script.seen, script.seen + 1
            return next((fault for fault in script.faults if fault.first <= number < fault.first + fault.times), None)

    def count(self, path: str, count: int) -> None:
        """Count bytes as sent."""
        with self._lock:
            self.sent[path] += count


class QuietServer(ThreadingHTTPServer):
    """A server to whom a client that is gone is no news."""

    daemon_threads = True

    def __init__(self, *args: Any, **options: Any) -> None:
        self._open = 0
        self._closed = threading.Condition()
        """Guards the number of open connections."""
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection, and give it a thread."""
        with self._closed:
            self._open += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        super().shutdown_request(request)
        with self._closed:
            self._open -= 1
            self._closed.notify_all()

    def wait_until_unused(self, seconds: float) -> None:
        """Wait until no connection is open.

        Raises:
            TimeoutError: When there is one after `seconds`.
        """
        with self._closed:
            if not self._closed.wait_for(lambda: self._open == 0, seconds):
                raise TimeoutError(f"{self._open} connections are still open.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke off."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    files: FileServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        request = FileRequest(self.command, path, {name.lower(): value for name, value in self.headers.items()})
        fault = self.files.note(request)
        data = self.files.data(path)
        try:
            if data is None:
                self._send(404, {})
            elif fault is None or not self._refuse(fault):
                self._file(request, data, fault, body=body)
        except OSError:
            self.close_connection = True

    def _refuse(self, fault: FileFault) -> bool:
        """The faults that come without a body."""
        match fault.kind:
            case "silent":
                self.files.closing.wait(fault.seconds)
                self.close_connection = True
            case "416":
                self._send(416, {"Content-Range": "bytes */1"})
            case "429":
                self._send(429, {"Retry-After": f"{fault.seconds:.0f}"})
            case "500" | "403" | "404":
                self._send(int(fault.kind), {})
            case "loop":
                self._send(302, {"Location": self.path})
            case "to http":
                self._send(302, {"Location": "http://example.invalid/file"})
            case "elsewhere":
                self._send(302, {"Location": fault.target})
            case _:
                return False
        return True

    def _file(self, request: FileRequest, data: bytes, fault: FileFault | None, *, body: bool) -> None:
        kind = fault.kind if fault else ""
        if kind in ("changed", "changed unseen"):
            data = data[::-1]
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        asked = request.range
        if kind in ("whole", "no length") or (
            kind != "changed unseen" and request.headers.get("if-range", etag) != etag
        ):
            asked = None
        if asked and asked[0] >= len(data):
            self._send(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        start, end = 0, len(data)
        if asked:
            start, end = asked[0], end if asked[1] is None else min(end, asked[1] + 1)
        if kind == "wrong range" and asked:
            start, end = max(start - 7, 0), end - 7
        headers = {"Accept-Ranges": "bytes"} | ({} if kind == "no validator" else {"ETag": etag})
        if asked and kind != "no range":
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._body(request.path, 206 if asked else 200, headers, data[start:end] if body else b"", fault)

    def _body(self, path: str, status: int, headers: dict[str, str], content: bytes, fault: FileFault | None) -> None:
        kind = fault.kind if fault else ""
        if kind == "flipped" and fault:
            at = min(fault.after, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        elif kind == "gzip":
            headers["Content-Encoding"], content = "gzip", gzip.compress(content, 1)
        elif kind == "web page":
            headers["Content-Type"], content = "text/html; charset=utf-8", b"<html>log in first</html>"
        if kind == "no length":
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(len(content) + (1000 if kind == "too long" else 0))
        self._head(status, {"Content-Type": "application/octet-stream"} | headers)
        if kind == "slow":
            self._trickle(content)
            return
        if kind == "crawl" and fault:
            for start in range(0, len(content), 2**13):
                self._pour(path, content[start : start + 2**13])
                self.files.closing.wait(fault.seconds)
            return
        self._pour(path, content[: fault.after] if fault and kind in ("drop", "stall") else content)
        if kind == "stall" and fault:
            self.files.closing.wait(fault.seconds)
        if kind in ("drop", "stall", "too long", "no length"):
            self.close_connection = True

    def _pour(self, path: str, content: bytes) -> None:
        left = memoryview(content)
        while left:
            count = self.files.valve.take(min(len(left), 2**16))
            if not count:
                raise BrokenPipeError
            self.files.count(path, count)
            self.wfile.write(left[:count])
            left = left[count:]

    def _trickle(self, content: bytes) -> None:
        for start in range(0, len(content), 3):
            self.wfile.write(content[start : start + 3])
            if self.files.closing.wait(0.05):
                break
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, headers | {"Content-Length": "0"})
