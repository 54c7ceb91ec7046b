"""What is known of a server while it is up: `servers/NAME/record.json`, readable by the user alone, written by its watcher only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from noa_lab.paths import Home, write_atomic
from noa_lab.server._channel import remove_address
from noa_lab.server._identity import ProcessMark, here, is_alive
from noa_lab.server._port import connect_host

__all__ = ["ServerRecord", "read_record", "read_records", "record_folder", "remove_record", "write_record"]

FILE = "record.json"


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server, as its watcher wrote it down.

    Attributes:
        name: Name of the server and of its folder.
        state: "starting", "ready", "draining" or "crashed".
        api_key: The key it asks for.
        secret: What a connection to the watcher has to begin with.
        fingerprint: Equal for launches that it can serve (`Launch.fingerprint`).
        alias: The name under which it reports its model.
        model: The `ModelFile`, as JSON.
        settings: The resolved `ServerSettings`, as JSON.
        runtime: Id of its runtime.
        log: Path of its log.
        keep: Whether it stays when its last holder has gone.
        notes: What could not be honoured, in words.
        here: Where its pids mean something (`_identity.here`).
        watcher: Its watcher.
        process: llama-server itself, once it was started.
        port: TCP port; 0 until it is known. A restart keeps it where the system can hold one (`_port`).
        address: Where the watcher listens.
        started_at: Seconds since the epoch.
        reason: Why it ended, in words; empty while it is up.
        exit_code: How it ended, if it did.
        host: Address that it listens on.
        origins: Where the value of each setting comes from, in words.
        restarts: How often it was started again after it had ended by itself.
        last_failure: Why it had, the last time; empty when it never did.
        was_ready: Whether it has ever been ready.
        kind: "server" (one llama-server) or "router" (one endpoint for several).
    """

    name: str
    state: str
    api_key: str = field(repr=False)
    secret: str = field(repr=False)
    fingerprint: str
    alias: str
    model: dict[str, Any]
    settings: dict[str, Any]
    runtime: str
    log: str
    keep: bool = False
    notes: tuple[str, ...] = ()
    here: str = ""
    watcher: ProcessMark | None = None
    process: ProcessMark | None = None
    port: int = 0
    address: str = ""
    started_at: float = 0.0
    reason: str = ""
    exit_code: int | None = None
    kind: str = "server"
    host: str = "127.0.0.1"
    origins: dict[str, str] = field(default_factory=dict)
    restarts: int = 0
    last_failure: str = ""
    was_ready: bool = False

    @property
    def base_url(self) -> str:
        """Where it answers, for programs on this machine; empty until its port is known."""
        host = connect_host(self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}" if self.port else ""

    @property
    def local(self) -> bool:
        """Whether its pids are those of this machine and this boot."""
        return self.here.split("/")[1:] == here().split("/")[1:]

    @property
    def watched(self) -> bool:
        """Whether its watcher is alive, as far as that can be seen from here."""
        return self.local and is_alive(self.watcher)

    @property
    def stale(self) -> bool:
        """Whether it describes nothing any more: written on this machine, and the watcher is gone without having said why."""
        ours = self.local or self.here.partition("/")[0] == here().partition("/")[0]
        return ours and self.state != "crashed" and not self.watched

    def changed(self, **changes: Any) -> ServerRecord:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; holds the key."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ServerRecord:
        """The record that `as_dict` described; fields of later versions are ignored.

        Raises:
            TypeError: When a field is missing.
        """
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        for name in ("watcher", "process"):
            values[name] = ProcessMark.from_json(values.get(name))
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)


def record_folder(home: Home, name: str) -> Path:
    """The folder of the server `name`; it may not exist."""
    return home.servers / name


def write_record(folder: Path, record: ServerRecord) -> None:
    """Write a record, readable by the user alone.

    Raises:
        OSError: When the folder cannot be written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # After a power cut there is no server that it could tell of.
    write_atomic(folder / FILE, json.dumps(record.as_dict(), indent=1), mode=0o600, durable=False)


def read_record(folder: Path) -> ServerRecord | None:
    """The record in `folder`, or None where there is none that can be read."""
    try:
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return ServerRecord.from_dict(data)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def read_records(home: Home) -> list[ServerRecord]:
    """All records, by name."""
    folders = sorted(path for path in home.servers.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [record for record in map(read_record, folders) if record is not None]


def remove_record(folder: Path, record: ServerRecord | None) -> None:
    """Remove a server's folder and its socket.

    The folder gets out of the way in one step, so that a new server of the same name cannot lose files to a removal under way.
    """
    if record is not None and record.address:
        remove_address(record.address, folder)
    doomed = folder.with_name(f".gone-{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    with contextlib.suppress(FileNotFoundError):
        folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
