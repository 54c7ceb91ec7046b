"""The one writer of a run in progress: commits what has finished in groups, and only then tells anyone.

A commit that survives a power cut takes milliseconds, an answer of a fast model less. So what arrives within a fiftieth of a second, or
while a commit is under way, goes into the next one together.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from noa_lab.errors import NoaLabError
from noa_lab.experiments.store._lease import release, renew
from noa_lab.experiments.store._schema import cells
from noa_lab.experiments.store._store import Store

__all__ = ["Change", "Writer", "describe_error"]

_HEARTBEAT = 5.0
_BATCH = 2_000

_TOGETHER = 0.02
"""Seconds that a commit waits for more: a commit of one cell costs nearly what one of twenty does."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a cell.

    Attributes:
        cell_id: The cell.
        status: Its new status.
        values: Its other columns, for a cell that is done or failed.
    """

    cell_id: str
    status: str
    values: Mapping[str, Any]


def describe_error(error: BaseException) -> dict[str, Any]:
    """An error as it is stored: its name, message and fix."""
    if isinstance(error, NoaLabError):
        return {"kind": type(error).__name__, "message": error.message, "fix": error.fix}
    return {"kind": type(error).__name__, "message": str(error), "fix": "Resume the run to try again."}


class Writer:
    """Commits the changes of one run on a thread of its own; `drain` ends it.

    Args:
        store: Where to.
        run_id: The run.
        token: The lease: nothing is committed once another process holds the run.
        on_commit: Called on the writer's thread with the changes that are now on the disk.
        on_error: Called on the writer's thread when nothing more can be committed.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        token: str,
        *,
        on_commit: Callable[[Sequence[Change]], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._store, self._run_id, self._token = store, run_id, token
        self._on_commit, self._on_error = on_commit, on_error
        self._queue: queue.SimpleQueue[Change | threading.Event | None] = queue.SimpleQueue()
        self._waited_for = threading.Event()
        """Set when somebody waits for the next commit."""
        self._beat = time.monotonic()
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"noa-lab writer {run_id}", daemon=True)
        self._thread.start()

    def put(self, change: Change) -> None:
        """Have a change committed soon; returns at once."""
        self._queue.put(change)

    def flush(self) -> None:
        """Wait until all that was put before is committed, or nothing can be any more."""
        done = threading.Event()
        self._queue.put(done)
        self._waited_for.set()
        done.wait()

    def drain(self) -> None:
        """Commit what is waiting and end the thread."""
        self._queue.put(None)
        self._waited_for.set()
        self._thread.join()

    def close(self, state: str, error: Mapping[str, Any] | None) -> None:
        """After `drain`: give the lease back.

        Args:
            state: How the run stands: "done", "failed", "paused" or "cancelled".
            error: What ended it, if something did.
        """
        with self._store.write() as connection:
            release(connection, self._run_id, self._token, state, error)

    def _work(self) -> None:
        while True:
            batch, waiting, more = self._collect()
            try:
                if self._broken is None and (batch or time.monotonic() - self._beat >= _HEARTBEAT):
                    self._commit(batch)
            except BaseException as error:
                # From here on nothing is recorded and so nothing is announced: the runner is told to stop, and resume does the rest.
                self._broken = error
                _log.debug("commit failed", exc_info=True)
                self._on_error(error)
            else:
                if self._broken is None and batch:
                    self._on_commit(batch)
            for event in waiting:
                event.set()
            if not more:
                return

    def _collect(self) -> tuple[list[Change], list[threading.Event], bool]:
        """What is to be committed, at most a batch of it; who waits for that; and whether more may come."""
        batch: list[Change] = []
        waiting: list[threading.Event] = []
        try:
            found = self._queue.get(timeout=_HEARTBEAT)
            self._waited_for.wait(_TOGETHER)
            self._waited_for.clear()
            while found is not None:
                if isinstance(found, threading.Event):
                    waiting.append(found)
                else:
                    batch.append(found)
                if len(batch) >= _BATCH:
                    return batch, waiting, True
                found = self._queue.get_nowait()
        except queue.Empty:
            return batch, waiting, True
        return batch, waiting, False

    def _commit(self, batch: Sequence[Change]) -> None:
        latest = {change.cell_id: change for change in batch}
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for change in latest.values():
            values = {"status": change.status, **change.values}
            groups.setdefault(tuple(values), []).append({"this_cell": change.cell_id, **values})
        with self._store.write() as connection:
            renew(connection, self._run_id, self._token)
            # A cell that is done stays as it was first recorded.
            ours = (cells.c.run_id == self._run_id) & (cells.c.status != "done")
            update = cells.update().where(ours, cells.c.cell_id == sa.bindparam("this_cell"))
            for rows in groups.values():
                connection.execute(update, rows)
        self._beat = time.monotonic()
