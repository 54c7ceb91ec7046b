"""The connections that lanes use: one watch over all requests gives up what is silent, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from noa_lab.errors import Unreachable
from noa_lab.inference._http import Connection
from noa_lab.inference.batch._wire import Wire

PATIENCE = 0.2


def answer(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


class Server:
    """Answers `/health` where it lives, everything else when it is told to."""

    def __init__(self, *, lives: bool = True, reads: bool = True, patience: float = PATIENCE) -> None:
        self._lives, self._reads, self._patience = lives, reads, patience
        self.checks = 0
        self.now = asyncio.Event()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        port = self._server.sockets[0].getsockname()[1]
        self.wire = Wire(Connection(f"http://127.0.0.1:{port}", None, patience=self._patience))
        return self.wire

    async def __aexit__(self, *_: object) -> None:
        await self.wire.aclose()
        self.now.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._reads:
            head = await reader.readuntil(b"\r\n\r\n")
            if b" /health " in head and self._lives:
                self.checks += 1
                writer.write(answer(b"{}"))
                if self.checks == 2:
                    self.now.set()
            else:
                await self.now.wait()
                writer.write(answer(b'{"late": true}'))
        else:
            writer.transport.pause_reading()
            await self.now.wait()
        writer.close()


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"prompt": "x" * 20_000_000}])
def test_a_server_that_is_silent_is_given_up(body):
    async def main() -> None:
        async with Server(lives=False, reads=len(body["prompt"]) == 1) as wire:
            with pytest.raises(Unreachable, match=r"silent for 0\.2 s"):
                await asyncio.wait_for(wire.ask("/completion", body), 20)
            assert not wire._waiting

    asyncio.run(main())


def test_a_server_that_shows_that_it_lives_is_waited_for():
    async def main() -> None:
        server = Server(patience=1.0)  # a quarter of it is all that an answer of /health may take
        async with server as wire:
            assert await asyncio.wait_for(wire.ask("/completion", {}), 20) == {"late": True}
        assert server.checks >= 2

    asyncio.run(main())


def test_a_request_that_is_cancelled_is_waited_for_no_more():
    async def main() -> None:
        async with Server() as wire:
            asking = asyncio.create_task(wire.ask("/completion", {}))
            while not wire._waiting:
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert not wire._waiting

    asyncio.run(main())
