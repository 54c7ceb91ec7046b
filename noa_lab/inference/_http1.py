"""HTTP/1.1 on asyncio's own streams: connections that are kept, and answers whole or piece by piece.

What llama-server needs and nothing else. httpx's own way (httpcore, h11, anyio) goes several times round the event loop for each request
and each piece of an answer; beside the inference, on the same cores, that costs more than everything else about a request.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import urlsplit

__all__ = ["Answer", "Broken", "Connections", "NoConnection"]

_KEEP_SECONDS = 4.0
"""llama-server closes idle connections after 5 s; ours are given up before that."""

_CONNECT_SECONDS = 5.0
_LONGEST_HEAD = 64 * 1024
_PIECE = 64 * 1024

_FAULTS = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)

_Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


_OPENED: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()


def _leave_alone() -> None:
    """In a forked child: a writer closes itself when it is collected, which would take its socket out of the parent's selector as well."""
    for writer in _OPENED:
        writer.close = lambda: None  # type: ignore[method-assign]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_alone)


class NoConnection(Exception):
    """Nobody listens there; the message says what the system said."""


class Broken(Exception):
    """The connection ended before the answer was whole, or what came is not HTTP."""


class Answer:
    """One answer, its body not read yet. The owner calls `close`.

    Args:
        status: HTTP status.
        headers: By name, in lower case; of one that came twice the last.
        pair: The connection.
        over: Told of the connection and whether another request may use it.
    """

    def __init__(
        self, status: int, headers: Mapping[bytes, bytes], pair: _Pair, over: Callable[[_Pair, bool], None]
    ) -> None:
        self.status, self.headers = status, headers
        self._pair, self._over = pair, over
        self._whole = self._closed = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            Broken: When it ends too early.
        """
        try:
            async for piece in _body_of(self._pair[0], self.headers):
                yield piece
        except _FAULTS as error:
            raise Broken(_words(error)) from error
        self._whole = True

    async def read(self) -> bytes:
        """The whole body; raises what `pieces` raises."""
        length = self.headers.get(b"content-length", b"")
        # Most answers say how long they are. Going through pieces costs more than reading one of them.
        if not length.isdigit() or b"transfer-encoding" in self.headers:
            return b"".join([piece async for piece in self.pieces()])
        try:
            body = await self._pair[0].readexactly(int(length))
        except _FAULTS as error:
            raise Broken(_words(error)) from error
        self._whole = True
        return body

    def close(self) -> None:
        """Give the connection back, or end it where the answer was not read to its end: the server then stops working on it."""
        if not self._closed:
            self._closed = True
            ends = b"close" in self.headers.get(b"connection", b"").lower()
            told = b"content-length" in self.headers or b"transfer-encoding" in self.headers
            self._over(self._pair, self._whole and told and not ends)


class Connections:
    """The connections to one server, used on one event loop.

    Args:
        base_url: "http://host:port", or with "https".
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._idle: deque[tuple[float, _Pair]] = deque()
        """Since when, and which; the longest idle first."""
        self._busy: set[asyncio.StreamWriter] = set()
        self._closings = 0

    async def ask(self, request: bytes) -> Answer:
        """Send a request, head and body, and wait for the head of its answer.

        Where the server had closed a kept connection meanwhile, the request goes out on a fresh one; nothing else is sent twice.

        Raises:
            NoConnection: When nobody listens.
            Broken: When the answer ends before its head has.
        """
        kept, closings = self._kept(), self._closings
        if kept is not None:
            try:
                return await self._begin(kept, request)
            except Broken:
                if self._closings > closings:
                    raise
                self._end_idle()
        return await self._begin(await self._connect(), request)

    def close(self) -> None:
        """Close all connections; what is going on breaks off."""
        self._closings += 1
        self._end_idle()
        for writer in self._busy:
            writer.close()

    def _end_idle(self) -> None:
        for _, (_, writer) in self._idle:
            writer.close()
        self._idle.clear()

    def _kept(self) -> _Pair | None:
        self._end_old()
        while self._idle:
            _, pair = self._idle.pop()
            if not pair[0].at_eof():
                return pair
            pair[1].close()
        return None

    def _end_old(self) -> None:
        while self._idle and time.monotonic() - self._idle[0][0] > _KEEP_SECONDS:
            self._idle.popleft()[1][1].close()

    async def _connect(self) -> _Pair:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                pair = await asyncio.open_connection(self._host, self._port, ssl=self._ssl, limit=_LONGEST_HEAD)
        except (OSError, UnicodeError) as error:
            # A time-out is an OSError, a host name that cannot be one a UnicodeError.
            raise NoConnection(str(error) or type(error).__name__) from error
        _OPENED.add(pair[1])
        return pair

    async def _begin(self, pair: _Pair, request: bytes) -> Answer:
        reader, writer = pair
        self._busy.add(writer)
        try:
            writer.write(request)
            await writer.drain()
            status, headers = _head_of(await reader.readuntil(b"\r\n\r\n"))
        except BaseException as error:
            self._over(pair, False)  # the server stops working for a connection that is gone
            if isinstance(error, _FAULTS):
                raise Broken(_words(error)) from error
            raise
        return Answer(status, headers, pair, self._over)

    def _over(self, pair: _Pair, again: bool) -> None:
        self._busy.discard(pair[1])
        self._end_old()
        if again:
            self._idle.append((time.monotonic(), pair))
        elif pair[1].transport.get_write_buffer_size():
            pair[1].transport.abort()  # a request that is not taken would be kept until it is
        else:
            pair[1].close()


def _head_of(raw: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Status, and headers by name in lower case.

    Raises:
        ValueError: When it is no head of an HTTP answer.
    """
    lines = raw[:-4].split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise ValueError(f"it answered {lines[0][:60]!r}, which is not HTTP")
    pairs = (line.partition(b":") for line in lines[1:])
    return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body_of(reader: asyncio.StreamReader, headers: Mapping[bytes, bytes]) -> AsyncIterator[bytes]:
    """The body that comes after a head.

    Raises:
        ValueError, IncompleteReadError, OSError: When it is not what the head says.
    """
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    elif b"content-length" in headers:
        left = int(headers[b"content-length"])
        while left > 0:
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    else:
        while piece := await reader.read(_PIECE):
            yield piece


def _words(error: Exception) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return "the connection was closed before the answer was whole"
    return str(error) or type(error).__name__
