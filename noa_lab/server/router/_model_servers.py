"""The llama-servers of the router's models: started, looked at and let go. Blocking calls; each model's come one after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from noa_lab.events import CancelToken
from noa_lab.paths import Home
from noa_lab.server._identity import is_alive, mark_of, owns_port
from noa_lab.server._serve import serve
from noa_lab.server._status import find
from noa_lab.server.router._memory import measured_bytes

if TYPE_CHECKING:
    from noa_lab.server._server import Server
    from noa_lab.server.router._plan import RouterPlan

__all__ = ["Address", "ModelServers"]

_GONE_SECONDS = 10.0
_OTHERS_SECONDS = 1.0
"""A server that is still ready so long after it was let go of is held by somebody else."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a model answers.

    Attributes:
        model: Name of the model.
        base_url: Its server.
        api_key: The server's key.
        start: Number of the start, to tell a server from the one after it.
    """

    model: str
    base_url: str
    api_key: str
    start: int

    def __repr__(self) -> str:
        return f"<Address {self.model} at {self.base_url}>"


class ModelServers:
    """The servers that are held for the router.

    Args:
        plan: What the router is to do.
    """

    def __init__(self, plan: RouterPlan) -> None:
        self._plan = plan
        self._home = Home(Path(plan.home))
        self._models = {one.name: one for one in plan.models}
        self._held: dict[str, Server] = {}
        self._numbers: dict[str, int] = {}
        self._starts = 0
        self._cancel = CancelToken()

    def start(self, name: str) -> int:
        """Start a model's server, or join one that is up with the same settings.

        Returns:
            The memory that it takes, in bytes.

        Raises:
            NoaLabError: When it does not become ready.
        """
        planned = self._models[name]
        server = serve(
            self._plan.runtime,
            planned.file,
            planned.settings,
            home=self._home,
            cancel=self._cancel,
            logging=self._plan.logging,
        )
        self._starts += 1
        self._held[name], self._numbers[name] = server, self._starts
        return self.measure(name)

    def stop(self, name: str) -> None:
        """Let go of a model's server and wait until its memory is free, unless others hold it too."""
        server = self._held[name]
        record = find(self._home, server.name)
        self.forget(name)
        began = time.monotonic()
        while record is not None and is_alive(record.process) and time.monotonic() < began + _GONE_SECONDS:
            now = find(self._home, server.name)
            if now is not None and now.state == "ready" and time.monotonic() > began + _OTHERS_SECONDS:
                return
            time.sleep(0.02)

    def forget(self, name: str) -> None:
        """Let go of a model's server without waiting."""
        server = self._held.pop(name, None)
        if server is not None:
            server.release()

    def address(self, name: str) -> Address:
        """Where a model that is loaded answers now; a restart may have moved it (see `Server.base_url`)."""
        server = self._held[name]
        return Address(name, server.base_url, str(server.api_key), self._numbers[name])

    def state(self, name: str) -> str:
        """How a model's server is: "up", "gone", or "unsettled": it has died, or is being started again or stopped by its watcher."""
        server = self._held[name]
        state = server.state
        # One that was just killed is alive for a moment longer than its port.
        if state == "ready" and owns_port(mark_of(server.pid), urlsplit(server.base_url).port or 0):
            return "up"
        return "unsettled" if state in ("ready", "starting", "draining") else "gone"

    def measure(self, name: str) -> int:
        """Memory that a model's server takes now, in bytes; 0 when it is gone.

        What it has on a GPU is not seen: there, at least what was foreseen counts.
        """
        seen = measured_bytes(self._held[name].pid)
        return seen if self._plan.runtime.backend == "cpu" else max(seen, self._models[name].predicted_bytes)

    def slots(self) -> int:
        """Slots of all loaded models together."""
        return sum(server.settings.slots for server in self._held.values())

    def release_all(self) -> None:
        """Let go of everything at once; starts under way are given up."""
        self._cancel.cancel()
        for name in list(self._held):
            self.forget(name)
