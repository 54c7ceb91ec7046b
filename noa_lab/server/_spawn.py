"""Start a watcher, and with it a server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from noa_lab.errors import ServerError
from noa_lab.runtime import beside_first
from noa_lab.server._channel import Channel, ChannelEnded, transport_for
from noa_lab.server._command import Launch, scrubbed_environment
from noa_lab.server._death import death_watch_for, watcher_flags
from noa_lab.server._holding import Hold, exited, hold, this_holder, updated
from noa_lab.server._log import log_path, tail
from noa_lab.server._log_settings import LogSettings
from noa_lab.server._record import ServerRecord, read_record, read_records, record_folder

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home

__all__ = ["inherits_connections", "start_server", "start_watcher"]

_SPAWN_SECONDS = 20.0


def start_server(
    home: Home,
    name: str,
    launch: Launch,
    model: ModelFile,
    *,
    runtime_id: str,
    keep: bool,
    logging: LogSettings | None = None,
) -> Hold:
    """Start the watcher of a new server called `name`, which must be free; to be called under the registry's lock.

    Args:
        home: Where its folder goes.
        name: What it is called.
        launch: What is started.
        model: The model that it serves.
        runtime_id: The runtime that it is a part of.
        keep: Whether it stays after its last holder.
        logging: What goes into which log; default: `LogSettings()`.

    Returns:
        The first hold, on a server that is starting.

    Raises:
        ServerError: When the watcher cannot be started.
        ServerExited: When llama-server cannot be.
    """
    logging = logging or LogSettings()
    record = ServerRecord(
        name=name,
        state="starting",
        api_key=secrets.token_urlsafe(32),
        secret=secrets.token_urlsafe(24),
        fingerprint=launch.fingerprint,
        alias=launch.alias,
        model={**model.to_record(), "path": str(Path(model.path).absolute())},
        settings=launch.settings.model_dump(mode="json"),
        runtime=runtime_id,
        log=str(logging.path_for(name, home.logs, [one.log for one in read_records(home)])),
        keep=keep,
        notes=launch.notes,
        host=launch.settings.host,
        origins=launch.origins,
    )
    empty = record_folder(home, name) / "config"
    environment = scrubbed_environment(os.environ, api_key=record.api_key, empty_folder=empty)
    environment = beside_first(environment, Path(launch.argv[0]).parent)
    argv = (*launch.argv, *_slot_files(home, name, launch))
    patience = launch.settings.hang_seconds
    return start_watcher(home, record, argv, environment, hang_seconds=patience, logging=logging)


def _slot_files(home: Home, name: str, launch: Launch) -> tuple[str, ...]:
    """The arguments for saving slots, and the folder that they go to; what is saved there is readable for its owner only."""
    if not launch.settings.save_slots:
        return ()
    folder = record_folder(home, name) / "slots"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ("--slot-save-path", f"{folder}{os.sep}")


def start_watcher(
    home: Home,
    record: ServerRecord,
    argv: Sequence[str],
    environment: dict[str, str],
    *,
    hang_seconds: float = 60.0,
    logging: LogSettings | None = None,
) -> Hold:
    """Start a watcher and, as its child, a program that answers HTTP; to be called under the registry's lock.

    Args:
        home: Where its folder goes.
        record: What is known of it before it runs; `record.name` must be free.
        argv: The program and its arguments; no secret is among them. It prints "main: listening on http://127.0.0.1:PORT" when it
            does, answers /health with 200 when it is ready, and ends on SIGTERM.
        environment: The program's whole environment.
        hang_seconds: After how many seconds without a sign of life it counts as hung and is restarted.
        logging: What of its output is written, and when the log is set aside; where it is written is `record.log`.

    Returns:
        The first hold, on a program that is starting.

    Raises:
        ServerError: When the watcher cannot be started.
        ServerExited: When the program cannot be.
    """
    inherit = inherits_connections(os.name)
    spec = {
        "record": record.as_dict(),
        "folder": str(record_folder(home, record.name)),
        "argv": list(argv),
        "env": environment,
        "transport": transport_for(os.name),
        "death_watch": death_watch_for(sys.platform),
        "holder": this_holder(),
        "inherit": inherit,
        "hang_seconds": hang_seconds,
        "log": (logging or LogSettings()).for_watcher(),
    }
    if not inherit:
        return Hold(*_spawn_and_connect(spec, record), joined=False)
    channel = _spawn_inheriting(spec, record.log)
    _link_log(log_path(home.logs, record.name), Path(record.log))
    try:
        return Hold(channel, _first_state(channel, record), joined=False)
    except BaseException:
        channel.close()
        raise


def _link_log(usual: Path, log: Path) -> None:
    """Make a log that is elsewhere readable under its server's name, also after the server has gone, where the system has links."""
    with contextlib.suppress(OSError):
        if log != usual and (usual.is_symlink() or not usual.exists()):
            usual.unlink(missing_ok=True)
            usual.symlink_to(log)


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
        with theirs, _open_log(Path(log), "ab") as errors:
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


def _open_log(log: Path, mode: str) -> IO[bytes]:
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file: IO[bytes] = log.open(mode)
    except OSError as error:
        raise ServerError(
            f"The log {log} cannot be written: {error.strerror or error}.",
            fix="Choose another `logging.file` in server.yaml, or make its folder writable.",
            log=str(log),
        ) from None
    with contextlib.suppress(OSError):  # one of another user's, to which we may write
        log.chmod(0o600)
    return file


def _spawn_and_connect(spec: dict[str, Any], record: ServerRecord) -> tuple[Channel, ServerRecord]:
    """Start the watcher where connections cannot be inherited, and connect to it as soon as its record is there."""
    folder = Path(spec["folder"])
    # Windows renames no file that is open: what the watcher itself complains of must not keep its log from being set aside.
    complaints = Path(record.log).with_suffix(".watcher.log")
    with _open_log(complaints, "wb") as errors:
        process = _start_apart(_watcher_command("connect"), errors, folder.parent)
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin as pipe:
        pipe.write(json.dumps(spec).encode() + b"\n")
    deadline = time.monotonic() + _SPAWN_SECONDS
    while time.monotonic() < deadline and not process.poll():
        found = read_record(folder)
        held = hold(found) if found is not None and found.address else None
        if held is not None:
            process.returncode = process.returncode or 0  # on Windows it lives on, and is not ours to wait for
            return held
        time.sleep(0.02)
    raise _watcher_failed(record.name, str(complaints))


def _start_apart(command: Sequence[str], errors: IO[bytes], folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one, also where this one is in a job that ends with it (Windows)."""
    for flags in watcher_flags(os.name):
        try:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                creationflags=flags,
                cwd=str(folder),
            )
        except PermissionError:  # the job lets nobody leave it
            continue
    raise OSError("The watcher's process cannot be started.")


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


def _watcher_failed(name: str, log: str) -> ServerError:
    lines = tail(Path(log), 20)
    said = next((line for line in reversed(lines) if line.strip()), "")
    return ServerError(
        f"The watcher of {name} could not be started" + (f": {said.strip()}" if said else "."),
        fix="Run `noa-lab check`; the log's last lines say more.",
        name=name,
        log_tail=lines,
    )
