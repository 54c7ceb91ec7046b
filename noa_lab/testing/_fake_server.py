"""A fake llama-server for faults that the real one shows only by accident."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["FakeLlamaServer", "Script"]


_SCRIPTED = {"/completion", "/v1/completions", "/v1/chat/completions"}


@dataclass(frozen=True, slots=True)
class Script:
    """How the fake answers one request.

    Attributes:
        pieces: Text pieces of the stream.
        pause: Seconds before each piece.
        head_after: Seconds before the response head (a request that waits for a slot).
        status: Other than 200: this status with `body`, and no stream.
        body: JSON body of an answer that is no stream, or the envelope of an error.
        error_event: Sent as an error event in place of the end mark.
        cut_after: Close the connection, without any end, after this many pieces.
        drop: Close the connection without an answer.
        raw: These bytes are the stream, as they are.
        final: Overrides fields of the last event.
        ping: Send a keep-alive comment every 0.1 s of a pause.
    """

    pieces: Sequence[str] = ("Hello", " there")
    pause: float = 0.0
    head_after: float = 0.0
    status: int = 200
    body: Any = None
    error_event: Mapping[str, Any] | None = None
    cut_after: int | None = None
    drop: bool = False
    raw: bytes | None = None
    final: Mapping[str, Any] = field(default_factory=dict)
    ping: bool = False


@dataclass(slots=True)
class _Seen:
    path: str
    body: Any
    headers: dict[str, str]
    connection: int


class FakeLlamaServer:
    """Listens on a free loopback port in a thread of its own, until it is closed.

    Args:
        scripts: Answers to `/completion`, `/v1/completions` and `/v1/chat/completions`, in order; the last one repeats.
        bodies: JSON answers of other paths, for example `{"/props": {...}}`.

    Attributes:
        seen: The requests so far: path, body, headers (lower case) and the number of their connection.
        hung_up: Streams that the client closed before their end.
        remember: Most requests kept in `seen`; None keeps all.
    """

    def __init__(self, scripts: Sequence[Script] = (Script(),), bodies: Mapping[str, Any] | None = None) -> None:
        self._scripts = list(scripts)
        self._bodies = {"/health": {"status": "ok"}, **(bodies or {})}
        self.seen: list[_Seen] = []
        self.remember: int | None = None
        self.hung_up = 0
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        ready: threading.Event = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(5)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def close_idle(self) -> None:
        """Close every connection without a word, as llama-server does with idle ones."""
        done = threading.Event()

        def close() -> None:
            for writer in list(self._writers):
                writer.transport.abort()
            done.set()

        self._loop.call_soon_threadsafe(close)
        done.wait(5)

    def close(self) -> None:
        """Stop listening, close every connection, end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._server.close)
            self.close_idle()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        self._writers.add(writer)
        try:
            # A cancel comes from `close` alone, and asyncio's own callback cannot take one.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._one(reader, writer, number):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        _, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        data = await reader.readexactly(int(headers.get("content-length", "0")))
        body = json.loads(data) if data else None
        self.seen.append(_Seen(path, body, headers, number))
        if self.remember is not None:
            del self.seen[: -self.remember]
        if path not in _SCRIPTED:
            known = path in self._bodies
            await _plain(writer, 200 if known else 404, self._bodies.get(path, _envelope(404, "File Not Found")))
            return True
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await asyncio.sleep(script.head_after)
        if script.drop:
            return False
        if script.status != 200:
            await _plain(writer, script.status, script.body)
            return True
        try:
            return await self._stream(script, writer, body)
        except ConnectionError:
            self.hung_up += 1
            return False

    async def _stream(self, script: Script, writer: asyncio.StreamWriter, body: Any) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if script.raw is not None:
            await _chunk(writer, script.raw)
            await _chunk(writer, b"")
            return True
        await _event(writer, {"content": "", "prompt_progress": {"total": 3, "cache": 0, "processed": 0, "time_ms": 0}})
        for index, piece in enumerate(script.pieces):
            if script.cut_after == index:
                return False
            await _rest(script, writer)
            await _event(writer, {"index": 0, "content": piece, "tokens": [index], "stop": False})
        if script.cut_after is not None:
            return False
        if script.error_event is not None:
            await _event(writer, {"error": dict(script.error_event)})
        else:
            await _event(writer, {**_final(len(script.pieces), body or {}), **script.final})
        await _chunk(writer, b"")
        return True


def _final(count: int, body: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: body[name] for name in ("temperature", "top_k", "top_p", "min_p", "seed") if name in body}
    return {
        "index": 0,
        "content": "",
        "tokens": [],
        "stop": True,
        "model": "fake",
        "tokens_predicted": count,
        "tokens_evaluated": 3,
        "stop_type": "eos",
        "truncated": False,
        "generation_settings": settings,
        "timings": {"cache_n": 1, "prompt_n": 2, "prompt_ms": 1.0, "predicted_n": count, "predicted_ms": 2.0},
    }


def _envelope(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": "not_found_error"}}


async def _plain(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


async def _rest(script: Script, writer: asyncio.StreamWriter) -> None:
    left = script.pause
    while script.ping and left > 0.1:
        await asyncio.sleep(0.1)
        await _chunk(writer, b":\n\n")
        left -= 0.1
    await asyncio.sleep(left)


async def _event(writer: asyncio.StreamWriter, event: Mapping[str, Any]) -> None:
    await _chunk(writer, b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()
