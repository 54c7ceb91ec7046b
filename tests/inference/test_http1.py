"""HTTP/1.1 by hand: bodies of every kind, answers that break off, connections that are kept and those that are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from noa_lab.inference._http1 import Broken, Connections, NoConnection

ASK = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n"


class Server:
    """Sends one answer after the other, whatever is asked; each is its bytes, and whether its connection ends with it."""

    def __init__(self, *answers: tuple[bytes, bool]) -> None:
        self._answers = list(answers)
        self.connections = 0
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # asyncio's own callback cannot take the cancel at the end of the test.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            ends = False
            while self._answers and not ends:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                raw, ends = self._answers.pop(0)
                writer.write(raw)
        writer.close()


def run(server: Server, work: Callable[[Connections], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        connections = Connections(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        try:
            return await asyncio.wait_for(work(connections), 10)
        finally:
            connections.close()
            listening.close()

    return asyncio.run(go())


async def read(connections: Connections) -> bytes:
    answer = await connections.ask(ASK)
    try:
        return await answer.read()
    finally:
        answer.close()


async def read_twice(connections: Connections) -> list[bytes]:
    return [await read(connections), await read(connections)]


@pytest.mark.parametrize(
    ("raw", "body", "connections"),
    [
        (HELLO, b"hello", 1),
        (OK + b"content-length: 0\r\n\r\n", b"", 1),
        (CHUNKS, b"hello", 1),
        (OK + b"Connection: Close\r\nContent-Length: 5\r\n\r\nhello", b"hello", 2),
    ],
)
def test_bodies_and_what_becomes_of_their_connections(raw: bytes, body: bytes, connections: int) -> None:
    server = Server((raw, connections > 1), (raw, False))
    assert run(server, read_twice) == [body, body]
    assert (server.connections, server.requests) == (connections, 2)


def test_a_body_that_ends_with_its_connection() -> None:
    server = Server((b"HTTP/1.0 200 OK\r\n\r\nhello", True), (HELLO, False))
    assert run(server, read_twice) == [b"hello", b"hello"]
    assert server.connections == 2


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "whole"),
        (OK, "whole"),
        (OK + b"Content-Length: 50\r\n\r\nhel", "whole"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "whole"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", "hello"),
        (OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n", "limit"),
        (b"SSH-2.0-server\r\n\r\n", "not HTTP"),
    ],
)
def test_answers_that_break_off_are_named_and_not_asked_for_again(raw: bytes, match: str) -> None:
    server = Server((raw, True))
    with pytest.raises(Broken, match=match):
        run(server, read)
    assert server.connections == 1


def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    server = Server((HELLO, True), (HELLO, False))
    assert run(server, read_twice) == [b"hello", b"hello"]
    assert (server.connections, server.requests) == (2, 2)


def test_an_answer_that_is_left_early_ends_its_connection() -> None:
    async def leave(connections: Connections) -> bytes:
        answer = await connections.ask(ASK)
        assert await anext(answer.pieces()) == b"hel"
        answer.close()
        return await read(connections)

    server = Server((CHUNKS, False), (HELLO, False))
    assert run(server, leave) == b"hello"
    assert server.connections == 2


def test_closing_breaks_off_what_is_going_on_and_sends_nothing_again() -> None:
    async def closed(connections: Connections) -> None:
        await read(connections)  # the next request goes over a kept connection
        asking = asyncio.create_task(read(connections))
        while server.requests < 2:
            await asyncio.sleep(0.001)
        connections.close()
        with pytest.raises(Broken):
            await asking

    server = Server((HELLO, False), (OK, False), (HELLO, False))
    run(server, closed)
    assert (server.connections, server.requests) == (1, 2)


def test_nobody_listens() -> None:
    with pytest.raises(NoConnection):
        asyncio.run(Connections("http://127.0.0.1:1").ask(ASK))
