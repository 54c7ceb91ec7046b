"""JSON over HTTP/1.1 to one llama-server, with as little work a request as there can be.

A comparison makes thousands of small requests beside the inference, on the same cores. One takes a small part of what it takes with httpx
(`benchmarks/overhead.py` compares them), because this does nothing but what llama-server needs: whole bodies both ways, kept connections,
one key, one watch over all that is waited for. What answers are worth is decided by the same rules as elsewhere (`refusal`).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from noa_lab.errors import Unreachable
from noa_lab.inference._http import Connection, as_json, refusal
from noa_lab.inference._http1 import body_of, head_of

__all__ = ["Wire"]

_KEEP_SECONDS = 4.0
"""llama-server closes idle connections after 5 s; ours are given up before that."""

_CONNECT_SECONDS = 5.0
_LONGEST_HEAD = 64 * 1024

_Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Stale(Exception):
    """A kept connection that the server had closed meanwhile."""


class _Silent(Exception):
    """Nothing came for as long as patience lasts, and nothing else shows that the server lives."""


class Wire:
    """A pool of connections to one server, used on one event loop.

    Args:
        connection: Knows the address, the key, the patience and what to say when nothing answers.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        parts = urlsplit(connection.base_url)
        self._host, self._prefix = parts.hostname or "", parts.path
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        key = connection.authorization
        self._head = f"Host: {parts.netloc}\r\n" + (f"Authorization: {key}\r\n" if key else "")
        self._idle: list[tuple[float, _Pair]] = []
        self._waiting: dict[_Pair, float] = {}
        """Connections on which an answer is waited for, and since when, or since when the server was last known to live."""
        self._watch: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.base_url

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask, and wait for the answer for as long as the server shows that it lives.

        Args:
            path: The endpoint.
            body: Sent as JSON by POST; None is a GET.

        Returns:
            The answer's JSON.

        Raises:
            Unreachable: When nothing answers, or nothing comes and `/health` does not answer either.
            RequestRefused: When the server answers with an error.
            ContextOverflow: When it says that the prompt does not fit.
            BadInput: When the body cannot be written as JSON.
        """
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watching())
        try:
            status, raw = await self._answer(path, body)
        except _Silent:
            raise self._connection.unreachable(f"it was silent for {self._connection.patience:g} s") from None
        if status >= 400:
            raise refusal(status, raw, self.url + path)
        try:
            return json.loads(raw)
        except ValueError:
            raise self._connection.nonsense(path, raw) from None

    async def _watching(self) -> None:
        """Give up what is waited for in vain: one watch for all requests, as most of them are over in no time."""
        patience = self._connection.patience
        while True:
            await asyncio.sleep(patience / 4)
            now = time.monotonic()
            overdue = [pair for pair, since in self._waiting.items() if now - since >= patience]
            lives = bool(overdue) and await self._lives(within=patience / 4)
            for pair in overdue:
                if pair in self._waiting and lives:
                    self._waiting[pair] = now
                elif pair in self._waiting:
                    pair[0].set_exception(_Silent())
                    pair[1].transport.abort()  # also where it is the request that is not taken

    async def _lives(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                return (await self._answer("/health", None))[0] == 200
        except (TimeoutError, Unreachable, _Silent):
            return False

    async def aclose(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for _, (_, writer) in self._idle:
            writer.close()
        self._idle.clear()

    async def _answer(self, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        data = b"" if body is None else as_json(body)
        method = "GET" if body is None else "POST"
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        request = head.encode("ascii") + data
        while True:
            pair, kept = await self._open()
            try:
                return await self._exchange(pair, request, kept=kept)
            except _Stale:
                continue  # nothing had been answered on it, and a fresh connection is next

    async def _open(self) -> tuple[_Pair, bool]:
        while self._idle:
            since, pair = self._idle.pop()
            if time.monotonic() - since < _KEEP_SECONDS and not pair[0].at_eof():
                return pair, True
            pair[1].close()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await asyncio.open_connection(self._host, self._port, ssl=self._ssl, limit=_LONGEST_HEAD), False
        except (OSError, TimeoutError) as error:
            raise self._connection.unreachable(error) from error

    async def _exchange(self, pair: _Pair, request: bytes, *, kept: bool) -> tuple[int, bytes]:
        reader, writer = pair
        begun = False
        self._waiting[pair] = time.monotonic()
        try:
            writer.write(request)
            await writer.drain()
            first = await reader.readuntil(b"\r\n\r\n")
            begun = True
            status, headers = head_of(first)
            raw = b"".join([piece async for piece in body_of(reader, headers)])
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            writer.close()
            if kept and not begun:
                raise _Stale from None
            raise self._connection.unreachable(error) from error
        except BaseException:
            writer.close()  # the server stops working for a connection that is gone
            raise
        finally:
            del self._waiting[pair]
        if headers.get(b"connection", b"").lower() == b"close":
            writer.close()
        else:
            self._idle.append((time.monotonic(), pair))
        return status, raw
