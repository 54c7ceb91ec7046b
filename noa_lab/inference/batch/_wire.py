"""JSON over HTTP/1.1 to one llama-server, with as little work a request as there can be.

A comparison makes thousands of small requests beside the inference, on the same cores. One takes a small part of what it takes with httpx
(`benchmarks/overhead.py` compares them), because this does nothing but what llama-server needs: whole bodies both ways, kept connections,
one key, one watch over all that is waited for. What answers are worth is decided by the same rules as elsewhere (`refusal`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from noa_lab.errors import Unreachable
from noa_lab.inference._http import Connection, as_json, refusal
from noa_lab.inference._http1 import Broken, Connections, NoConnection

__all__ = ["Wire"]


class _Silent(Exception):
    """Nothing came for as long as patience lasts, and nothing else shows that the server lives."""


class Wire:
    """JSON questions to one server, asked on one event loop.

    Args:
        connection: Knows the address, the key, the patience and what to say when nothing answers.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        parts = urlsplit(connection.base_url)
        self._prefix = parts.path
        key = connection.authorization
        self._head = f"Host: {parts.netloc}\r\n" + (f"Authorization: {key}\r\n" if key else "")
        self._connections = Connections(connection.base_url)
        self._waiting: dict[asyncio.Timeout, float] = {}
        """What ends the waiting for an answer, and since when that is waited for, or since when the server was last known to live."""
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
            overdue = [limit for limit, since in self._waiting.items() if now - since >= patience]
            lives = bool(overdue) and await self._lives(within=patience / 4)
            for limit in overdue:
                if limit in self._waiting and lives:
                    self._waiting[limit] = now
                elif limit in self._waiting and not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time())

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
        self._connections.close()

    async def _answer(self, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        data = b"" if body is None else as_json(body)
        method = "GET" if body is None else "POST"
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        request = head.encode("ascii") + data
        try:
            async with asyncio.timeout(None) as limit:
                self._waiting[limit] = time.monotonic()
                try:
                    return await self._exchange(request)
                finally:
                    del self._waiting[limit]
        except TimeoutError:
            raise _Silent from None
        except (NoConnection, Broken) as error:
            raise self._connection.unreachable(error) from error

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        answer = await self._connections.ask(request)
        try:
            return answer.status, await answer.read()
        finally:
            answer.close()
