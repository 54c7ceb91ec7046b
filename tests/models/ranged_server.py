"""A web server that gives parts of files, and speaks as much of the hub's language as finding a file takes; loopback only."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class RangedServer:
    """Serves the files of `folder` under /OWNER/REPO/resolve/main/NAME.

    Attributes:
        folder: The files.
        asked: Bytes that were asked for, by file, in order.
        tokens: The Authorization header of each request; "" where it had none.
        fault: "", "no ranges", "other part", "gated", "missing" or "elsewhere" (the bytes are on another host name).
    """

    folder: Path
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    tokens: list[tuple[str, str]] = field(default_factory=list)
    fault: str = ""

    def __post_init__(self) -> None:
        rig = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                rig._tell(self)

            def do_GET(self) -> None:
                rig._give(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _note(self, request: BaseHTTPRequestHandler) -> str:
        self.tokens.append((request.headers.get("Host", ""), request.headers.get("Authorization", "")))
        return request.path.rpartition("/")[2]

    def _tell(self, request: BaseHTTPRequestHandler) -> None:
        name = self._note(request)
        path = self.folder / name
        if self.fault == "gated":
            request.send_response(403)
            request.send_header("X-Error-Code", "GatedRepo")
            request.end_headers()
            return
        if self.fault == "missing" or not path.is_file():
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.end_headers()
            return
        request.send_response(302 if self.fault == "elsewhere" else 200)
        request.send_header("X-Repo-Commit", "a" * 40)
        request.send_header("ETag", f'"{"b" * 64}"')
        request.send_header("X-Linked-Size", str(path.stat().st_size))
        request.send_header("Content-Length", str(path.stat().st_size))
        if self.fault == "elsewhere":
            request.send_header("Location", f"{self.elsewhere}/bytes/{name}")
        request.end_headers()

    def _give(self, request: BaseHTTPRequestHandler) -> None:
        path = self.folder / self._note(request)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if not path.is_file() or match is None or self.fault == "no ranges":
            request.send_response(200 if path.is_file() else 404)
            request.send_header("Content-Length", "4")
            request.end_headers()
            request.wfile.write(b"GGUF")
            return
        size = path.stat().st_size
        start, end = int(match[1]), min(int(match[2]), size - 1)
        self.asked.append((path.name, start, end + 1))
        if self.fault == "other part":
            start += 1
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(end + 1 - start)
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
