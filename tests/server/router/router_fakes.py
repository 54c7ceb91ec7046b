"""A plan for models that do not exist, servers that only say what was asked of them, and a llama-server that does what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Self

import uvicorn

from noa_lab.errors import ServerExited
from noa_lab.models import ModelFile, ModelMetadata
from noa_lab.runtime import Runtime
from noa_lab.server import ServerSettings
from noa_lab.server.router._app import RouterApp
from noa_lab.server.router._desk import Desk
from noa_lab.server.router._forward import Forwarder
from noa_lab.server.router._guard import guarded
from noa_lab.server.router._model_servers import Address
from noa_lab.server.router._plan import PlannedModel, RouterPlan
from noa_lab.server.router._schedule import Policy
from noa_lab.server.router._sockets import open_sockets

METADATA = ModelMetadata("llama", "Fake", 1, 8192, 1, 8, 1, 1, 32, "Q4_1", None, 1)


def model_file(name: str, path: Path = Path("/nowhere.gguf")) -> ModelFile:
    return ModelFile(name, path, "", 24, str(path), False, METADATA)


def make_plan(*names: str, budget: int = 100, **changes: object) -> RouterPlan:
    """A plan whose models take 10 bytes each."""
    settings = ServerSettings(context_size=64, slots=1)
    models = tuple(PlannedModel(model_file(name), settings, predicted_bytes=10) for name in names or ("a", "b"))
    runtime = Runtime("fake", Path("/nowhere"), "path", "b1", 1, "c0ffee")
    policy = Policy(budget, linger_seconds=0.02)
    return RouterPlan("/nowhere", runtime, models, models[0].name, policy, {}, **changes)


class FakeServers:
    """What `ModelServers` is to the desk; every model answers at one address."""

    def __init__(self, base_url: str = "http://127.0.0.1:1") -> None:
        self.base_url = base_url
        self.calls: list[tuple[str, str]] = []
        self.states: dict[str, str] = {}
        self.failing: set[str] = set()
        self.may_start = threading.Event()
        self.may_start.set()
        self._starts = 0
        self._addresses: dict[str, Address] = {}

    def start(self, name: str) -> int:
        self.calls.append(("start", name))
        assert self.may_start.wait(10)
        if name in self.failing:
            raise ServerExited("llama-server ended: bad model.", fix="")
        self._starts += 1
        self.states[name] = "up"
        self._addresses[name] = Address(name, self.base_url, f"key-of-{name}", self._starts)
        return 10

    def stop(self, name: str) -> None:
        self.calls.append(("stop", name))
        self.forget(name)

    def forget(self, name: str) -> None:
        self.states.pop(name, None)
        self._addresses.pop(name, None)

    def address(self, name: str) -> Address:
        return self._addresses[name]

    def state(self, name: str) -> str:
        return self.states.get(name, "gone")

    def measure(self, name: str) -> int:
        return 10


class Connection:
    """One connection to the scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = b""
        self.body = b""

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.lower().encode():
                return value.strip().decode()
        return None

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, content_type: str = "application/json", status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)

    async def begin_stream(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"Access-Control-Allow-Origin: *\r\nKeep-Alive: timeout=5\r\nServer: x\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def closed(self) -> None:
        """Wait until the other side has closed."""
        while await self.reader.read(1):
            pass

    def die(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


class ScriptedUpstream:
    """An HTTP server whose every answer is a function of the test's."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Connection] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                connection = Connection(reader, writer)
                connection.head = await reader.readuntil(b"\r\n\r\n")
                connection.body = await reader.readexactly(int(connection.header("content-length") or 0))
                self.requests.append(connection)
                await self.script(connection)
        writer.close()
        self._tasks.discard(task)


class RunningApp:
    """The router's application on a port of its own, in the test's event loop."""

    def __init__(self, plan: RouterPlan, servers: FakeServers) -> None:
        self.plan, self.servers = plan, servers
        self.desk = Desk(plan, servers)
        self.base_url = ""

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Self]:
        forwarder = Forwarder(self.desk)
        app = guarded(RouterApp(self.plan, self.desk, forwarder).asgi, "the-key")
        sockets = open_sockets("127.0.0.1", 0, reuse=False)
        self.base_url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        web = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, lifespan="off", ws="none", server_header=False, timeout_graceful_shutdown=1
            )
        )
        serving = asyncio.ensure_future(web._serve(sockets))
        while not web.started:
            await asyncio.sleep(0.002)
        try:
            yield self
        finally:
            web.should_exit = True
            await serving
            await forwarder.aclose()
