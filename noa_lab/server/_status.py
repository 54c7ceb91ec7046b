"""What servers there are, how they do, and what their logs say."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import NoaLabError, ServerMissing
from noa_lab.server._channel import ChannelEnded, connect
from noa_lab.server._holding import updated
from noa_lab.server._http import ask, ask_json
from noa_lab.server._identity import is_alive, owns_port
from noa_lab.server._launch import clear_stale, registry_lock
from noa_lab.server._log import follow, log_path, redact, tail
from noa_lab.server._record import ServerRecord, read_record, read_records, record_folder

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = ["ServerStatus", "ask_watcher", "find", "log_lines", "missing", "read_log", "servers", "status_of"]

_QUICK = 1.0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How a server does, at one moment.

    Attributes:
        name: Name of the server.
        state: "starting", "ready", "busy" (ready, and a slot is at work), "draining", "crashed", "stopped", "elsewhere" (its record was
            written on another machine) or "unresponsive" (its watcher does not answer).
        model: Name of the model.
        pid: llama-server's process id; None when there is no process.
        base_url: Where it answers; empty until it listens.
        runtime: Id of its runtime.
        settings: Its settings.
        keep: Whether it stays when its last holder has gone.
        holders: How many connections hold it.
        held_by: Who they are, for example "notebook (pid 4711)".
        slots_busy: Requests being worked on.
        slots_total: Requests that can be worked on at the same time.
        tokens_per_second: Speed of generating, averaged over all that it has generated; None before the first token.
        memory_bytes: Resident memory of llama-server, pages of the mapped model file included.
        uptime_seconds: Since it was started.
        notes: What could not be honoured, in words.
        reason: Why it ended, in words; empty while it is up.
        log: Path of its log.
        kind: "server" (one llama-server) or "router" (one endpoint for several).
    """

    name: str
    state: str
    model: str
    pid: int | None = None
    base_url: str = ""
    runtime: str = ""
    settings: dict[str, Any] | None = None
    keep: bool = False
    holders: int = 0
    held_by: tuple[str, ...] = ()
    slots_busy: int = 0
    slots_total: int = 0
    tokens_per_second: float | None = None
    memory_bytes: int = 0
    uptime_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str = ""
    log: str = ""
    kind: str = "server"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; holds no secret."""
        return asdict(self)


def servers(home: Home) -> list[ServerStatus]:
    """All servers of this home that are up, starting or crashed. Records whose watcher is dead are cleaned up first."""
    if any(record.stale for record in read_records(home)):
        with registry_lock(home):
            clear_stale(home)
    found = [status_of(record) for record in read_records(home)]
    return [status for status in found if status.state != "stopped"]  # it ended while it was being looked at


def find(home: Home, name: str) -> ServerRecord | None:
    """The record of a server, with its key, or None when no such server is up."""
    record = _read_named(home, name)
    return None if record is None or record.stale or record.state == "crashed" else record


def missing(home: Home, name: str) -> ServerMissing:
    """The error for a name under which no server is up."""
    from noa_lab.errors import nearest

    known = [record.name for record in read_records(home)]
    near = nearest(name, known)
    fix = f"Did you mean {near!r}?" if near else f"Servers that are up: {', '.join(known) or 'none'}."
    return ServerMissing(f"No server {name!r} is up.", fix=fix, name=name, nearest=near, known=known)


def _read_named(home: Home, name: str) -> ServerRecord | None:
    """The record under `name`, which may come from a user and must stay inside `servers/`."""
    return read_record(record_folder(home, name)) if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) else None


def ask_watcher(
    record: ServerRecord, operation: str, *, timeout: float = _QUICK, **arguments: Any
) -> dict[str, Any] | None:
    """Ask a server's watcher without becoming a holder; None when it does not answer."""
    if not record.address or not record.watched:
        return None
    try:
        channel = connect(record.address, timeout)
    except OSError:
        return None
    try:
        channel.send({"secret": record.secret, "op": operation, "id": 1, **arguments})
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            answer = channel.receive(timeout=timeout)
            if answer is not None and answer.get("reply") == 1:
                return answer
    except ChannelEnded:
        pass
    finally:
        channel.close()
    return None


def status_of(record: ServerRecord) -> ServerStatus:
    """The status of the server that `record` describes; asks its watcher and llama-server, each for at most a second."""
    answer = ask_watcher(record, "status")
    if answer is not None:
        record = updated(record, answer)
    state = record.state
    if not record.local:
        state = "elsewhere"
    elif state != "crashed" and answer is None:
        state = "unresponsive" if record.watched else "stopped"
    up = state in ("starting", "ready", "draining", "unresponsive") and is_alive(record.process)
    facts: dict[str, Any] = {}
    if state == "ready":
        facts = _measure(record)
        state = "busy" if facts["slots_busy"] else "ready"
    held_by = tuple(f"{one.get('program', '?')} (pid {one.get('pid')})" for one in (answer or {}).get("holders", []))
    return ServerStatus(
        name=record.name,
        state=state,
        model=str(record.model.get("name", "")),
        pid=record.process.pid if record.process is not None and up else None,
        base_url=record.base_url,
        runtime=record.runtime,
        settings=record.settings,
        keep=record.keep,
        holders=len(held_by),
        held_by=held_by,
        memory_bytes=_memory(record) if up else 0,
        uptime_seconds=max(0.0, time.time() - record.started_at) if up else 0.0,
        notes=record.notes,
        reason=record.reason,
        log=record.log,
        kind=record.kind,
        **facts,
    )


def _memory(record: ServerRecord) -> int:
    import psutil

    try:
        return int(psutil.Process(record.process.pid).memory_info().rss) if record.process is not None else 0
    except psutil.Error:
        return 0


def _measure(record: ServerRecord) -> dict[str, Any]:
    if record.kind == "router":
        from noa_lab.server.router._status import measure

        return measure(record)
    facts: dict[str, Any] = {
        "slots_busy": 0,
        "slots_total": int(record.settings.get("slots", 0)),
        "tokens_per_second": None,
    }
    if not owns_port(record.process, record.port):
        return facts
    try:
        slots = ask_json(record.base_url, "/slots", api_key=record.api_key, timeout=_QUICK)
        facts["slots_total"] = len(slots)
        facts["slots_busy"] = sum(bool(slot.get("is_processing")) for slot in slots)
        _, metrics = ask(record.base_url, "/metrics", api_key=record.api_key, timeout=_QUICK)
    except (NoaLabError, AttributeError, TypeError):
        return facts  # it is up and busy with something else; what it did not tell is not made up
    tokens = _metric(metrics, "tokens_predicted_total")
    seconds = _metric(metrics, "tokens_predicted_seconds_total")
    facts["tokens_per_second"] = tokens / seconds if tokens and seconds else None
    return facts


def _metric(text: bytes, name: str) -> float:
    found = re.search(rf"^llamacpp:{name} ([\d.eE+-]+)$", text.decode(errors="replace"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def log_lines(record: ServerRecord, lines: int) -> list[str]:
    """The last lines of a server's log, without its secrets."""
    from pathlib import Path

    return [redact(line, (record.api_key, record.secret)) for line in tail(Path(record.log), lines)]


def read_log(home: Home, name: str, *, lines: int = 50, follow: bool = False) -> Iterator[str]:
    """The last lines of a server's log, also after the server has gone.

    Args:
        home: The home.
        name: Name of the server.
        lines: How many lines from the end.
        follow: Go on with new lines as they are written, until the server has gone.

    Raises:
        ServerMissing: When no server of this name has ever been up here.
    """
    path = log_path(home.logs, name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) or not path.exists():
        raise missing(home, name)
    return _log_stream(home, name, lines, follow)


def _log_stream(home: Home, name: str, lines: int, following: bool) -> Iterator[str]:
    path = log_path(home.logs, name)
    yield from tail(path, lines)
    if not following:
        return
    for line in follow(path):
        if line:
            yield line
        elif find(home, name) is None:
            return
