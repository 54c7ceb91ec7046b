"""Ending servers on request, whoever holds them."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from noa_lab.errors import ServerError
from noa_lab.server._foreign import foreign_servers
from noa_lab.server._identity import is_alive, signal_process
from noa_lab.server._launch import registry_lock
from noa_lab.server._record import ServerRecord, read_record, read_records, record_folder, remove_record
from noa_lab.server._status import ask_watcher, missing

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = ["end_server", "stop", "stop_all"]

_PATIENCE = 3.0


def stop(home: Home, name: str) -> None:
    """Stop a server and wait until it is gone; its other holders are told.

    Raises:
        ServerMissing: When no such server is up.
        ServerError: When it is a foreign one, runs on another machine, or cannot be ended.
    """
    record = next((one for one in read_records(home) if one.name == name), None)
    if record is None:
        _refuse_foreign(home, name)
        raise missing(home, name)
    was_up = record.watched
    end_server(home, record)
    if not was_up and record.state != "crashed":
        raise missing(home, name)


def _refuse_foreign(home: Home, name: str) -> None:
    if any(one.name == name for one in foreign_servers(home)):
        raise ServerError(
            f"noa_lab has not started {name} from this home, so it does not end it.",
            fix="End it with the program that started it.",
            name=name,
        )


def stop_all(home: Home) -> list[str]:
    """Stop every server of this home that runs on this machine.

    Returns:
        Names of the servers that were stopped.

    Raises:
        ServerError: When one cannot be ended, after the others were.
    """
    stopped: list[str] = []
    failed: list[ServerError] = []
    for record in read_records(home):
        if record.local:
            try:
                end_server(home, record)
            except ServerError as error:
                failed.append(error)
            else:
                stopped.append(record.name)
    if failed:
        raise failed[0]
    return stopped


def end_server(home: Home, record: ServerRecord) -> None:
    """End one server; its watcher does it, or, if that does not answer, we do.

    Raises:
        ServerError: When it runs on another machine, or outlives a SIGKILL.
    """
    if not record.local and not record.stale:
        raise ServerError(
            f"{record.name} runs on another machine ({record.here.partition('/')[0]}).",
            fix="Run `noa-lab stop` on that machine.",
            name=record.name,
        )
    if record.local:  # the processes of one from before a reboot are gone, and their pids are others' now
        _end_processes(record)
    with registry_lock(home):
        folder = record_folder(home, record.name)
        left = read_record(folder)
        if left is not None and left.secret == record.secret:
            remove_record(folder, left)


def _end_processes(record: ServerRecord) -> None:
    answer = ask_watcher(record, "stop", why=f"it was stopped by process {os.getpid()}")
    if answer is None or not _gone(record, _PATIENCE):
        for mark in (record.process, record.watcher):
            signal_process(mark, getattr(signal, "SIGKILL", signal.SIGTERM))
    if not _gone(record, _PATIENCE):
        raise ServerError(
            f"{record.name} did not end, not even when it was killed.",
            fix="End its process with the system's own tools; `noa-lab status` shows its pid.",
            name=record.name,
            record=record.name,
        )


def _gone(record: ServerRecord, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while is_alive(record.watcher) or is_alive(record.process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
