"""A server as the one who holds it sees it."""

from __future__ import annotations

import asyncio
import html
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from noa_lab.errors import ServerMissing
from noa_lab.server._channel import ChannelEnded
from noa_lab.server._holding import Hold, exited, updated
from noa_lab.server._identity import owns_port
from noa_lab.server._port import hold_port
from noa_lab.server._record import ServerRecord
from noa_lab.server._settings import ServerSettings
from noa_lab.server._status import ServerStatus, ask_watcher, log_lines, status_of
from noa_lab.server._stop import end_server

if TYPE_CHECKING:
    from noa_lab.errors import InferenceError
    from noa_lab.inference import InferenceConfig, LlamaClient, LlamaInferenceEngine, Mode
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home

__all__ = ["ApiKey", "Server"]

Engine = TypeVar("Engine", bound="LlamaInferenceEngine")
_LOOK_SECONDS = 0.02


class ApiKey(str):
    """A key that works as a string and does not show itself: its `repr`, which notebooks and tracebacks print, is masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[masked; print() shows it]'"


class _PortHold:
    """Keeps other programs from a server's port as long as something refers to this: see `hold_port`."""

    def __init__(self, record: ServerRecord) -> None:
        held = hold_port(record.host, record.port)
        if held is not None:
            weakref.finalize(self, held.close)


# An engine that a server has handed out keeps its server held: `lab.serve("m").engine()` would else end what it runs on. It keeps the port
# too, also after the server's end: nobody else can be there to get its key and its prompts.
_BORROWED: weakref.WeakKeyDictionary[object, tuple[Server, _PortHold]] = weakref.WeakKeyDictionary()


class Server:
    """A llama-server that this process holds: it stays up at least until `release`, the end of a `with` block, or the end of the process.

    A hold also ends when the object, and every engine and client that it has handed out, are no longer referred to.
    """

    def __init__(self, home: Home, hold: Hold, model: ModelFile) -> None:
        self._home = home
        self._record = hold.record
        self._channel = hold.channel
        self._model = model
        self._joined = hold.joined
        self._notes = hold.notes
        self._ended: dict[str, Any] | None = None
        self.sampling: InferenceConfig | None = None
        """What its engines take where a config leaves something open; None: `InferenceConfig()`."""
        self._news = threading.Lock()
        """Keeps what the watcher says in order: `_record` and `_ended` follow it."""
        self._finalizer = weakref.finalize(self, hold.channel.close)
        self._port_hold: _PortHold | None = _PortHold(hold.record)

    # --- what it is -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the server: the model's, with "-2", "-3", ... where one with other settings is up."""
        return self._record.name

    @property
    def pid(self) -> int:
        """Process id of llama-server; 0 while it is being restarted."""
        self._listen()
        return self._record.process.pid if self._record.process is not None else 0

    @property
    def base_url(self) -> str:
        """Where it answers, for example "http://127.0.0.1:40123". The `openai` package wants `server.base_url + "/v1"`.

        It stays the same when the server is restarted, but on systems that cannot hold a port (Windows).
        """
        self._listen()
        return self._record.base_url

    @property
    def api_key(self) -> ApiKey:
        """The key that it asks for, drawn anew for each server."""
        return ApiKey(self._record.api_key)

    @property
    def model(self) -> ModelFile:
        """The model that it serves."""
        return self._model

    @property
    def runtime(self) -> str:
        """Id of the runtime that it is a part of."""
        return self._record.runtime

    @property
    def settings(self) -> ServerSettings:
        """Its settings, with what was left open filled in."""
        return ServerSettings(**self._record.settings)

    @property
    def origins(self) -> dict[str, str]:
        """Where the value of each setting comes from: "given", "default", "tuned for this model", "measured at install", ..."""
        return dict(self._record.origins)

    @property
    def restarts(self) -> int:
        """How often it was started again after it had ended by itself; `status().last_failure` says why the last time."""
        self._listen()
        return self._record.restarts

    @property
    def notes(self) -> tuple[str, ...]:
        """In words, what this machine or llama.cpp could not honour, and why the name is not the model's."""
        return (*self._record.notes, *self._notes)

    @property
    def joined(self) -> bool:
        """Whether it was up already."""
        return self._joined

    @property
    def log(self) -> Path:
        """Path of its log."""
        return Path(self._record.log)

    @property
    def state(self) -> str:
        """The last that was heard of it, without asking: "starting" (again), "ready", "draining", "crashed", "stopped" or "released"."""
        self._listen()
        if self._channel.closed:
            return "released"
        if self._ended is not None:
            return "stopped" if self._ended.get("kind") == "stopped" else "crashed"
        return self._record.state

    # --- using it -------------------------------------------------------------------------------------------------------

    def engine(self, *, mode: Mode = "fast") -> LlamaInferenceEngine:
        """An `InferenceEngine` on this server; as long as it is referred to, the server stays held.

        A request that had brought no token when llama-server died is sent again once it is back; others fail by name.

        Args:
            mode: "strict" for answers that do not depend on what was asked before; needs `slots=1`.

        Raises:
            ServerMissing: When this hold was let go of.
        """
        from noa_lab.inference import LlamaInferenceEngine

        engine = LlamaInferenceEngine(
            self.base_url,
            self._model.name,
            api_key=str(self._record.api_key),
            mode=mode,
            model_sha256=self._model.sha256 or None,
            recover=self._recover,
        )
        return self._lend(engine)

    def _lend(self, engine: Engine) -> Engine:
        """Hand out an engine that keeps this server held."""
        if self.sampling is not None:
            engine.defaults = self.sampling
        self._lend_to(engine)
        return engine

    def client(self) -> LlamaClient:
        """An HTTP client of this server, helped after a crash as `engine` is; as long as it is referred to, the server stays held.

        Raises:
            ServerMissing: When this hold was let go of.
        """
        from noa_lab.inference import LlamaClient

        client = LlamaClient(self.base_url, api_key=str(self._record.api_key), recover=self._recover)
        self._lend_to(client)
        return client

    def _lend_to(self, borrower: object) -> None:
        """Let this server, and its port, be held as long as `borrower` is referred to."""
        if self._port_hold is None:
            raise ServerMissing(
                f"{self.name} was let go of here.",
                fix="Serve the model again: a server that is up is joined.",
                name=self.name,
            )
        _BORROWED[borrower] = (self, self._port_hold)

    def status(self) -> ServerStatus:
        """How it does now; asks its watcher and itself."""
        self._listen()
        if self._ended is None:
            return status_of(self._record)
        reason = str(self._ended.get("reason", ""))
        state = "stopped" if self._ended.get("kind") == "stopped" else "crashed"
        return ServerStatus(
            self.name,
            state,
            self._model.name,
            runtime=self.runtime,
            reason=reason,
            log=self._record.log,
            kind=self._record.kind,
        )

    def logs(self, n: int = 50) -> list[str]:
        """The last `n` lines of its log, without secrets."""
        return log_lines(self._record, n)

    # --- holding it -----------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Let it stay when its last holder has gone, until `stop`.

        Raises:
            ServerMissing: When it has ended.
        """
        self._set_keep(True)

    def follow(self) -> None:
        """Let it end with its last holder, which is what servers do unless `keep` was asked for.

        Raises:
            ServerMissing: When it has ended.
        """
        self._set_keep(False)

    def _set_keep(self, value: bool) -> None:
        answer = ask_watcher(self._record, "keep", timeout=3.0, value=value)
        if answer is None:
            raise ServerMissing(f"{self.name} is not up any more.", fix="Serve the model again.", name=self.name)
        self._listen()  # the watcher has told all holders

    def release(self) -> None:
        """Let go of it; it ends within 2 s unless somebody else holds it or it is kept. Releasing twice does nothing.

        Its port stays with this process until the last engine and client that were handed out are gone.
        """
        self._finalizer()
        self._port_hold = None

    def stop(self) -> None:
        """End it now, whoever else holds it, and wait until it is gone.

        Raises:
            ServerError: When it cannot be ended.
        """
        self._listen()
        if self._ended is None:
            self._ended = {"kind": "stopped", "reason": "it was stopped here"}
            end_server(self._home, self._record)
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _listen(self) -> None:
        """Take in what the watcher has said since the last look."""
        with self._news:
            if self._channel.closed or self._ended is not None:
                return
            try:
                while (message := self._channel.receive(timeout=0)) is not None:
                    if message.get("event") == "exit":
                        self._ended = message
                        return
                    self._record = updated(self._record, message)
            except ChannelEnded:
                self._ended = {"kind": "other", "reason": "its watcher was killed, and llama-server ended with it"}

    async def _recover(self, error: InferenceError) -> str | None:
        """What engines and clients await when the server went away under a request: its address once it is back.

        Returns:
            The address; None where this hold was let go, so that `error` says what there is to say.

        Raises:
            ServerExited: When it has ended, or is ending, for good; says why.
        """
        del error
        while True:
            self._listen()
            if self._ended is not None:
                raise exited(self.name, self._ended)
            if self._channel.closed:
                return None
            # One that was just killed is alive for a moment longer than its port, and its watcher has not heard of it yet.
            if self._record.state == "ready" and owns_port(self._record.process, self._record.port):
                return self._record.base_url
            await asyncio.sleep(_LOOK_SECONDS)

    # --- how it looks ---------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Server {self.name}: {self.state}, {self._model.name} at {self.base_url}, pid {self.pid}>"

    def _repr_html_(self) -> str:
        settings = self._record.settings
        facts = (
            f"{self._model.name} · {settings.get('slots')} slots of {settings.get('context_size')} tokens · "
            f"{settings.get('threads')} threads · pid {self.pid} · {'joined' if self._joined else 'started'} here"
        )
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return (
            f"<div><b>{html.escape(self.name)}</b> is {html.escape(self.state)} at <code>{html.escape(self.base_url)}</code></div>"
            f'<div style="opacity:.7;font-size:85%">{html.escape(facts)}{notes}</div>'
        )
