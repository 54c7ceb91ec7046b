"""Find the server that a launch asks for, or start one: the part that must happen in one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.errors import ServerError, ServerExited, ServerNotReady
from noa_lab.events import CancelToken
from noa_lab.server._channel import Channel, ChannelEnded, connect, transport_for
from noa_lab.server._command import Launch, scrubbed_environment
from noa_lab.server._death import death_watch_for
from noa_lab.server._identity import own_mark, signal_process
from noa_lab.server._log import log_path, tail
from noa_lab.server._record import ServerRecord, read_record, record_folder, remove_record

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home

__all__ = ["Hold", "clear_stale", "exited", "find_or_start", "hold", "registry_lock", "updated"]

_LOCK_SECONDS = 30.0
_TURNOVER_SECONDS = 10.0
_SPAWN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold on a server: the open connection and the record as it was then.

    Attributes:
        channel: The connection; closing it lets go.
        record: The record, with the key.
        joined: Whether the server was there already.
        notes: What is to be said about how this server was chosen.
    """

    channel: Channel
    record: ServerRecord
    joined: bool
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def registry_lock(home: Home, cancel: CancelToken | None = None) -> Iterator[None]:
    """Let one process at a time decide what servers there are. Held for about a tenth of a second, never while a model loads.

    Raises:
        Cancelled: When `cancel` says so.
        ServerNotReady: When another process does not let go of it.
    """
    import filelock

    lock = filelock.FileLock(home.servers / ".lock", mode=0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        if cancel is not None:
            cancel.check("Starting the server")
        try:
            lock.acquire(timeout=0.2)
            break
        except filelock.Timeout:
            if time.monotonic() > deadline:
                fix = f"End the process that holds {lock.lock_file}, then try again."
                raise ServerNotReady(
                    "Another process has been starting a server for too long.", fix=fix, seconds=_LOCK_SECONDS
                ) from None
    try:
        yield
    finally:
        lock.release()


def clear_stale(home: Home) -> None:
    """Remove what dead watchers have left behind; to be called under the `registry_lock`.

    A llama-server whose watcher is gone, which should not exist, is ended after its pid and start time have proved that it is ours.
    """
    import signal

    for folder in home.servers.iterdir():
        if folder.name.startswith(".gone-"):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        record = read_record(folder)
        if record is None:
            remove_record(
                folder, None
            )  # its watcher died before its first record, which is written before the lock is let go
        elif record.stale:
            if record.local:
                signal_process(record.process, getattr(signal, "SIGKILL", signal.SIGTERM))
            remove_record(folder, record)


def find_or_start(
    home: Home, launch: Launch, model: ModelFile, runtime_id: str, *, keep: bool, cancel: CancelToken | None
) -> Hold:
    """Join the server with this fingerprint, or start it.

    Returns:
        A hold on a server that is starting or ready.

    Raises:
        Cancelled: When `cancel` says so.
        ServerError: When a watcher does not answer or could not be started.
    """
    deadline = time.monotonic() + _TURNOVER_SECONDS
    while True:
        with registry_lock(home, cancel):
            clear_stale(home)
            name, record, notes = _choose_name(home, launch)
            if record is None:
                return _start(home, name, launch, model, runtime_id, keep, notes)
            channel = hold(record)
            if channel is not None:
                return Hold(channel, record, joined=True)
        if time.monotonic() > deadline:
            raise ServerNotReady(
                f"The watcher of {name} does not answer.",
                fix=f"End it with `noa-lab stop {name}`.",
                name=name,
                seconds=_TURNOVER_SECONDS,
            )
        time.sleep(0.05)  # it is ending: its name is free in a moment


def _choose_name(home: Home, launch: Launch) -> tuple[str, ServerRecord | None, tuple[str, ...]]:
    """The first name of the row NAME, NAME-2, ... that is free (None) or belongs to a server that can be joined."""
    others: list[str] = []
    number = 1
    while True:
        name = launch.alias if number == 1 else f"{launch.alias}-{number}"
        folder = record_folder(home, name)
        record = read_record(folder)
        if record is not None and record.state == "crashed":
            remove_record(folder, record)
            record = None
        if record is None:
            note = (
                f"{', '.join(others)} runs with other settings or another model file: this server is {name}."
                if others
                else ""
            )
            return name, None, (note,) if note else ()
        if record.fingerprint == launch.fingerprint and record.local:
            return name, record, ()
        others.append(name)
        number += 1


def hold(record: ServerRecord) -> Channel | None:
    """Become a holder of a server that is up; None when it is ending or does not answer."""
    if not record.watched:
        return None
    try:
        channel = connect(record.address, timeout=2.0)
    except OSError:
        return None
    try:
        channel.send({"secret": record.secret, "op": "hold", "holder": _self()})
        answer = channel.receive(timeout=2.0)
    except ChannelEnded:
        answer = None
    except BaseException:
        channel.close()
        raise
    if answer is None or answer.get("event") != "state":
        channel.close()
        return None
    return channel


def _self() -> dict[str, Any]:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return {**own_mark().as_dict(), "program": "notebook" if "ipykernel" in program else program}


def _start(
    home: Home, name: str, launch: Launch, model: ModelFile, runtime_id: str, keep: bool, notes: tuple[str, ...]
) -> Hold:
    folder = record_folder(home, name)
    key = secrets.token_urlsafe(32)
    record = ServerRecord(
        name=name,
        state="starting",
        api_key=key,
        secret=secrets.token_urlsafe(24),
        fingerprint=launch.fingerprint,
        alias=launch.alias,
        model={**asdict(model), "path": str(Path(model.path).absolute())},
        settings=launch.settings.model_dump(mode="json"),
        runtime=runtime_id,
        log=str(log_path(home.logs, name)),
        keep=keep,
        notes=launch.notes,
    )
    inherit = inherits_connections(os.name)
    spec = {
        "record": record.as_dict(),
        "folder": str(folder),
        "argv": list(launch.argv),
        "env": scrubbed_environment(os.environ, api_key=key, empty_folder=folder / "config"),
        "transport": transport_for(os.name),
        "death_watch": death_watch_for(sys.platform),
        "holder": _self(),
        "inherit": inherit,
    }
    if not inherit:
        connected = _spawn_and_connect(spec, record)
        return Hold(connected, read_record(folder) or record, joined=False, notes=notes)
    channel = _spawn_inheriting(spec, record.log)
    try:
        return Hold(channel, _first_state(channel, record), joined=False, notes=notes)
    except BaseException:
        channel.close()
        raise


def inherits_connections(os_name: str) -> bool:
    """Whether a child process can be given a socket as its standard input (not on Windows)."""
    return os_name == "posix"


def _watcher_command(how: str) -> list[str]:
    # -P: a file in the working folder must not pass for a module of ours.
    return [sys.executable, "-P", "-m", "noa_lab.server._watch", how]


def _spawn_inheriting(spec: dict[str, Any], log: str) -> Channel:
    """Start the watcher with one end of a socket pair as its standard input: from its first moment on it has a holder."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    try:
        with theirs, Path(log).open("ab") as errors:
            Path(log).chmod(0o600)
            process = subprocess.Popen(
                _watcher_command("inherit"),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                cwd=str(Path(spec["folder"]).parent),
            )
        channel.send(spec)
        process.wait(_SPAWN_SECONDS)  # only its first process, which forks and ends
    except (ChannelEnded, subprocess.TimeoutExpired):
        channel.close()
        raise _watcher_failed(spec["record"]["name"], log) from None
    except BaseException:
        channel.close()
        raise
    return channel


def _spawn_and_connect(spec: dict[str, Any], record: ServerRecord) -> Channel:
    """Start the watcher where connections cannot be inherited, and connect to it as soon as its record is there."""
    flags = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    folder = Path(spec["folder"])
    with Path(record.log).open("ab") as errors:
        process = subprocess.Popen(
            _watcher_command("connect"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            creationflags=flags,
            cwd=str(folder.parent),
        )
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin as pipe:
        pipe.write(json.dumps(spec).encode() + b"\n")
    deadline = time.monotonic() + _SPAWN_SECONDS
    while time.monotonic() < deadline and not process.poll():
        found = read_record(folder)
        channel = hold(found) if found is not None and found.address else None
        if channel is not None:
            process.returncode = process.returncode or 0  # on Windows it lives on, and is not ours to wait for
            return channel
        time.sleep(0.02)
    raise _watcher_failed(record.name, record.log)


def _first_state(channel: Channel, record: ServerRecord) -> ServerRecord:
    """The record as the watcher has written it."""
    deadline = time.monotonic() + _SPAWN_SECONDS
    try:
        while time.monotonic() < deadline:
            message = channel.receive(timeout=0.5)
            if message is None:
                continue
            if message["event"] == "exit":
                raise exited(record.name, message)
            if message["event"] == "state":
                return updated(record, message)
    except ChannelEnded:
        pass
    raise _watcher_failed(record.name, record.log)


def updated(record: ServerRecord, message: dict[str, Any]) -> ServerRecord:
    """`record` with what a message of the watcher says; secrets, which messages do not hold, stay."""
    news = message.get("record")
    return ServerRecord.from_dict({**record.as_dict(), **news}) if isinstance(news, dict) else record


def exited(name: str, message: dict[str, Any]) -> ServerExited:
    """The error for a watcher's message that llama-server has ended."""
    from noa_lab.server._exits import ExitReason

    reason = ExitReason(str(message.get("kind")), str(message.get("reason")), message.get("exit_code"))
    return ServerExited(
        f"llama-server ({name}) ended: {reason.words}.",
        fix=reason.fix,
        name=name,
        exit_code=reason.exit_code,
        reason=reason.words,
        kind=reason.kind,
        log_tail=list(message.get("tail", [])),
    )


def _watcher_failed(name: str, log: str) -> ServerError:
    lines = tail(Path(log), 20)
    said = next((line for line in reversed(lines) if line.strip()), "")
    return ServerError(
        f"The watcher of {name} could not be started" + (f": {said.strip()}" if said else "."),
        fix="Run `noa-lab check`; the log's last lines say more.",
        name=name,
        log_tail=lines,
    )
