"""Find the server that a launch asks for, or start one: the part that must happen in one process at a time."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from noa_lab.errors import ServerNotReady
from noa_lab.events import CancelToken
from noa_lab.server._holding import Hold, hold
from noa_lab.server._identity import signal_process
from noa_lab.server._record import ServerRecord, read_record, record_folder, remove_record

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = ["clear_stale", "find_or_start", "registry_lock"]

_LOCK_SECONDS = 30.0
_TURNOVER_SECONDS = 10.0


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
    home: Home, alias: str, fingerprint: str, start: Callable[[str], Hold], cancel: CancelToken | None
) -> Hold:
    """Join the server with this fingerprint, or start it.

    Args:
        home: Where the servers are.
        alias: The name it shall have; with "-2", "-3", ... where another one has that.
        fingerprint: What a server must have been started with to be joined.
        start: Starts it under the name that it is given; called under the `registry_lock`.
        cancel: Gives up.

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
            name, record, notes = _choose_name(home, alias, fingerprint)
            if record is None:
                return replace(start(name), notes=notes)
            held = hold(record)
            if held is not None:
                return Hold(*held, joined=True)
        if time.monotonic() > deadline:
            raise ServerNotReady(
                f"The watcher of {name} does not answer.",
                fix=f"End it with `noa-lab stop {name}`.",
                name=name,
                seconds=_TURNOVER_SECONDS,
            )
        time.sleep(0.05)  # it is ending: its name is free in a moment


def _choose_name(home: Home, alias: str, fingerprint: str) -> tuple[str, ServerRecord | None, tuple[str, ...]]:
    """The first name of the row NAME, NAME-2, ... that is free (None) or belongs to a server that can be joined."""
    others: list[str] = []
    number = 1
    while True:
        name = alias if number == 1 else f"{alias}-{number}"
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
        if record.fingerprint == fingerprint and record.local:
            return name, record, ()
        others.append(name)
        number += 1
