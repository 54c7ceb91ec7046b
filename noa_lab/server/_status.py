"""What servers there are, how they do, and what their logs say."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.errors import NoaLabError, ServerMissing
from noa_lab.server._channel import ChannelEnded, connect
from noa_lab.server._holding import updated
from noa_lab.server._http import ask, ask_json
from noa_lab.server._identity import is_alive, owns_port
from noa_lab.server._launch import clear_stale, registry_lock
from noa_lab.server._log import Place, end_of, follow, log_path, redact, tail
from noa_lab.server._probe import as_slot
from noa_lab.server._record import ServerRecord, read_record, read_records, record_folder
from noa_lab.server._vitals import vitals_of
from noa_lab.tables import TableList, duration, size

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = [
    "ForeignServerList",
    "ServerList",
    "ServerStatus",
    "ask_watcher",
    "find",
    "log_lines",
    "missing",
    "read_log",
    "servers",
    "status_of",
]

_QUICK = 1.0
_FACTS = ("phase", "loaded", "tokens_per_second_now", "memory_bytes", "memory_peak_bytes")
"""What the watcher's answer tells of the work, by the names of `ServerStatus`."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How a server does, at one moment.

    Attributes:
        name: Name of the server.
        state: "starting" (also again, after a crash), "ready", "busy" (ready, and a slot is at work), "draining", "crashed" (for good),
            "stopped", "elsewhere" (its record was written on another machine), "unresponsive" (its watcher does not answer) or "foreign"
            (noa_lab did not start it, and will not touch it).
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
        slots: What each slot does, as it was seen: id, busy, context_size, read (prompt tokens), written (generated tokens).
        tokens_per_second: Speed of generating, averaged over all that it has generated; None before the first token.
        tokens_per_second_now: Tokens generated a second at this moment, all slots together, by the requests at work; 0 when there are none.
        memory_bytes: Resident memory of llama-server, pages of the mapped model file included.
        memory_peak_bytes: The most of it since its start.
        loaded: While it starts: share of the model's file that is in memory, about; None otherwise and where it cannot be told.
        phase: While it starts: what it does, in words.
        origins: Where the value of each setting comes from, in words.
        restarts: How often it was started again after it had ended by itself.
        last_failure: Why it had, the last time; empty when it never did.
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
    slots: tuple[dict[str, Any], ...] = ()
    tokens_per_second: float | None = None
    tokens_per_second_now: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    loaded: float | None = None
    phase: str = ""
    uptime_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str = ""
    log: str = ""
    origins: dict[str, str] | None = None
    restarts: int = 0
    last_failure: str = ""
    kind: str = "server"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; holds no secret."""
        return asdict(self)


class ServerList(TableList[ServerStatus]):
    """Servers as they do at one moment; a table in a notebook, and `pandas.DataFrame` takes it."""

    _heads = ("Server", "State", "Model", "Address", "Slots", "Tokens/s", "Memory", "Up", "Holders")
    _short = ("Server", "State", "Address", "Slots", "Memory", "Up")
    _empty = "No server is up: lab.serve() starts one."

    def _cells(self, row: ServerStatus) -> tuple[object, ...]:
        rate = row.tokens_per_second_now or row.tokens_per_second
        return (
            row.name,
            row.state if row.loaded is None else f"{row.state} {row.loaded:.0%}",
            row.model,
            row.base_url,
            f"{row.slots_busy} of {row.slots_total}" if row.slots_total else "",
            f"{rate:.0f}" if rate else "",
            size(row.memory_bytes) if row.memory_bytes else "",
            duration(row.uptime_seconds) if row.uptime_seconds else "",
            row.holders if row.state != "foreign" else "",
        )


class ForeignServerList(ServerList):
    """Servers of others."""

    _empty = "No llama-server of others runs here."


def servers(home: Home) -> ServerList:
    """All servers of this home that are up, starting or crashed. Records whose watcher is dead are cleaned up first."""
    if any(record.stale for record in read_records(home)):
        with registry_lock(home):
            clear_stale(home)
    found = [status_of(record) for record in read_records(home)]
    return ServerList(status for status in found if status.state != "stopped")  # it ended while it was being looked at


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
    return read_record(record_folder(home, name)) if _is_name(name) else None


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None


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
    facts = _facts(record, (answer or {}).get("facts") or {}) if up else {}
    if state == "ready" and up:
        facts |= _measure(record)
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
        uptime_seconds=max(0.0, time.time() - record.started_at) if up else 0.0,
        notes=record.notes,
        reason=record.reason,
        log=record.log,
        origins=record.origins,
        restarts=record.restarts,
        last_failure=record.last_failure,
        kind=record.kind,
        **facts,
    )


def _facts(record: ServerRecord, told: dict[str, Any]) -> dict[str, Any]:
    """What the watcher has told of the work, with the memory as it is now."""
    facts = {name: told[name] for name in _FACTS if name in told}
    seen = vitals_of(record.process.pid) if record.process is not None else None
    if seen is not None:
        facts["memory_bytes"] = seen.memory_bytes
        facts["memory_peak_bytes"] = max(seen.peak_bytes, int(facts.get("memory_peak_bytes", 0)))
    return facts


def _measure(record: ServerRecord) -> dict[str, Any]:
    """What the server itself says, asked only on a port that is its own: slots and the average speed."""
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
        slots = [as_slot(one) for one in ask_json(record.base_url, "/slots", api_key=record.api_key, timeout=_QUICK)]
        facts["slots"] = tuple(
            {name: getattr(slot, name) for name in ("id", "busy", "context_size", "read", "written")} for slot in slots
        )
        facts["slots_total"] = len(slots)
        facts["slots_busy"] = sum(slot.busy for slot in slots)
        _, metrics = ask(record.base_url, "/metrics", api_key=record.api_key, timeout=_QUICK)
    except (NoaLabError, AttributeError, TypeError, ValueError, KeyError):
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
    record = _read_named(home, name)
    path = log_path(home.logs, name) if record is None else Path(record.log)
    if not _is_name(name) or not path.exists():
        raise missing(home, name)
    return _log_stream(home, name, path, lines, end_of(path), follow)


def _log_stream(home: Home, name: str, path: Path, lines: int, here: Place, following: bool) -> Iterator[str]:
    yield from tail(path, lines, before=here)
    if not following:
        return
    gone = False
    for line in follow(path, after=here):
        if line:
            yield line
        elif gone:
            return
        else:  # its last words were written before it went, and maybe after the last look into the log: one more look
            gone = find(home, name) is None
