"""Who executes a run: one process at a time, known by pid and start time, never by pid alone."""

from __future__ import annotations

import functools
import os
import platform
import secrets
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from noa_lab.errors import RunBusy
from noa_lab.experiments.store._schema import cells, runs

__all__ = ["acquire", "holder", "release", "renew"]

_START_TOLERANCE = 1.5
"""Seconds by which two readings of one process's start time may differ."""

_RECENT_BEAT = 15.0
"""Seconds within which a heartbeat proves that the process with this pid is the one meant."""

_FOREIGN_SILENCE = 60.0
"""Seconds without a heartbeat after which a process on another machine counts as gone; here, the process table decides."""


@functools.cache
def _own_start(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())


def _alive(pid: int, started: float, beat: float) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        same_start = abs(process.create_time() - started) < _START_TOLERANCE
        # A stepped clock moves the start times of all processes; the heartbeat then still speaks for this one.
        return same_start or abs(time.time() - beat) < _RECENT_BEAT
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # it exists, and belongs to another user


def holder(row: Mapping[str, Any]) -> int | None:
    """Pid of the living process that executes a run, or None.

    Args:
        row: The lease columns of the run.
    """
    if row["lease_token"] is None:
        return None
    if row["lease_host"] == platform.node():
        alive = _alive(row["lease_pid"], row["lease_started"], row["lease_beat"])
    else:
        alive = time.time() - row["lease_beat"] < _FOREIGN_SILENCE
    return int(row["lease_pid"]) if alive else None


def acquire(connection: Connection, run_id: str, *, retry_failed: bool) -> str:
    """Become the one that executes a run; cells that a dead process left running are pending again.

    Args:
        connection: In a write transaction.
        run_id: An existing run.
        retry_failed: Whether failed cells are to be tried again.

    Returns:
        A token that proves the lease.

    Raises:
        RunBusy: When a living process has it.
    """
    row = connection.execute(sa.select(runs).where(runs.c.run_id == run_id)).mappings().one()
    pid = holder(dict(row))
    if pid is not None:
        where = "this process" if pid == os.getpid() else f"process {pid}"
        raise RunBusy(
            f"The run {run_id} is being executed by {where}.",
            fix=f"Watch it with open_run({run_id!r}), or start another with fresh=True.",
            run_id=run_id,
            pid=pid,
        )
    token = secrets.token_hex(16)
    connection.execute(
        runs.update()
        .where(runs.c.run_id == run_id)
        .values(
            state="running",
            error=None,
            wish=None,
            lease_token=token,
            lease_pid=os.getpid(),
            lease_started=_own_start(os.getpid()),
            lease_host=platform.node(),
            lease_beat=time.time(),
        )
    )
    waiting = ["running", "failed"] if retry_failed else ["running"]
    connection.execute(
        cells.update().where(cells.c.run_id == run_id, cells.c.status.in_(waiting)).values(status="pending", error=None)
    )
    return token


def renew(connection: Connection, run_id: str, token: str) -> None:
    """Show that the process is alive.

    Args:
        connection: In a write transaction, which thereby is only committed if the lease is still ours.
        run_id: The run.
        token: What `acquire` gave.

    Raises:
        RunBusy: When another process has taken the run over, for example while this machine slept.
    """
    beat = runs.update().where(runs.c.run_id == run_id, runs.c.lease_token == token).values(lease_beat=time.time())
    if connection.execute(beat).rowcount != 1:
        _lost(run_id)


def release(connection: Connection, run_id: str, token: str, state: str, error: Mapping[str, Any] | None) -> None:
    """Give the lease back and say how the run stands; nothing happens if the lease is no longer ours.

    Args:
        connection: In a write transaction.
        run_id: The run.
        token: What `acquire` gave.
        state: "done", "failed", "paused" or "cancelled".
        error: What ended the run, as `describe_error` gives it.
    """
    ours = (runs.c.run_id == run_id) & (runs.c.lease_token == token)
    values: dict[str, Any] = {"state": state, "error": None if error is None else dict(error)}
    values |= dict.fromkeys(("lease_token", "lease_pid", "lease_started", "lease_host", "lease_beat", "wish"))
    if connection.execute(runs.update().where(ours).values(**values)).rowcount == 1:
        left = cells.update().where(cells.c.run_id == run_id, cells.c.status == "running")
        connection.execute(left.values(status="pending"))


def _lost(run_id: str) -> NoReturn:
    raise RunBusy(
        f"The run {run_id} has been taken over by another process.",
        fix=f"Watch it with open_run({run_id!r}).",
        run_id=run_id,
        pid=None,
    )
