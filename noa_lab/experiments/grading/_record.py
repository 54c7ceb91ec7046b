"""Grades on their way to the disk: in groups, and only while the run is ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from noa_lab.experiments.store._lease import renew
from noa_lab.experiments.store._schema import cells
from noa_lab.experiments.store._store import Store

__all__ = ["Record"]

_SECONDS = 0.25
_BATCH = 500


class Record:
    """Keeps the scores of a run's cells and commits what is new.

    Args:
        store: Where the run is.
        run_id: The run.
        token: Its lease: nothing is committed once another process holds the run.
        scores: The scores so far, by cell id.
        on_commit: Called with the ids of the cells whose grades are now on the disk.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        token: str,
        scores: Mapping[str, Mapping[str, Any]],
        on_commit: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._store, self._run_id, self._token = store, run_id, token
        self._scores = {cell_id: dict(found) for cell_id, found in scores.items()}
        self._on_commit = on_commit
        self._lock = threading.Lock()  # protects what is below
        self._waiting: dict[str, None] = {}
        self._last = time.monotonic()

    def put(self, cell_id: str, name: str, grade: Mapping[str, Any]) -> None:
        """Have a grade committed soon."""
        with self._lock:
            self._scores.setdefault(cell_id, {})[name] = dict(grade)
            self._waiting[cell_id] = None

    @property
    def due(self) -> bool:
        """Whether it is time for a commit."""
        with self._lock:
            late = time.monotonic() - self._last >= _SECONDS
            return bool(self._waiting) and (late or len(self._waiting) >= _BATCH)

    def commit(self) -> None:
        """Commit what waits.

        Raises:
            RunBusy: When another process has taken the run over.
        """
        with self._lock:
            ids, self._waiting = tuple(self._waiting), {}
            rows = [{"this_cell": cell_id, "scores": dict(self._scores[cell_id])} for cell_id in ids]
            self._last = time.monotonic()
        if not rows:
            return
        place = (cells.c.run_id == self._run_id) & (cells.c.cell_id == sa.bindparam("this_cell"))
        with self._store.write() as connection:
            renew(connection, self._run_id, self._token)
            connection.execute(cells.update().where(place), rows)
        self._on_commit(ids)
