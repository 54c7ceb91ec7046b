"""Counting: how far a run is, from what has been committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from noa_lab.experiments.store._writer import Change

__all__ = ["RunProgress", "Tally"]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is.

    Attributes:
        run_id: The run.
        status: "pending", "running", "pausing", "paused", "cancelled", "done" (every cell is) or "failed" (some cell or the run
            itself failed; resume tries these again).
        total: Cells.
        done: Cells with an answer.
        failed: Cells that ended in an error.
        running: Cells that are being asked for.
        pending: Cells that wait.
        cached: Those among the done ones whose answer was taken from an earlier run.
        graded: Questions to grading models that are answered.
        to_grade: All of them; 0 before the answers are there, and without scorers that ask a model.
        eta_seconds: Time left at the speed so far; None while that is not known.
        error: What ended the run, in one sentence; empty if nothing did.
        changed: Ids of the cells that changed since the last snapshot that a subscriber got.
    """

    run_id: str
    status: str
    total: int = 0
    done: int = 0
    failed: int = 0
    running: int = 0
    pending: int = 0
    cached: int = 0
    graded: int = 0
    to_grade: int = 0
    eta_seconds: float | None = None
    error: str = ""
    changed: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the cells that are over, from 0 to 1."""
        return (self.done + self.failed) / self.total if self.total else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without `changed`."""
        found = asdict(self)
        del found["changed"]
        return found


class Tally:
    """Counts of a run in progress; thread-safe.

    Args:
        statuses: Status by cell id at the beginning.
        cached: Done cells at the beginning whose answer came from an earlier run.
    """

    def __init__(self, statuses: Mapping[str, str], cached: int) -> None:
        self._lock = threading.Lock()
        self._statuses = dict(statuses)
        self._counts = {"pending": 0, "running": 0, "done": 0, "failed": 0}
        for status in statuses.values():
            self._counts[status] += 1
        self._cached = cached
        self._asked = 0
        self._first: float | None = None

    def apply(self, changes: Sequence[Change]) -> None:
        """Count what was committed."""
        with self._lock:
            if self._first is None:
                self._first = time.monotonic()
            for change in changes:
                self._counts[self._statuses[change.cell_id]] -= 1
                self._counts[change.status] += 1
                self._statuses[change.cell_id] = change.status
                if change.values.get("cached"):
                    self._cached += 1
                elif change.status in {"done", "failed"}:
                    self._asked += 1

    def counts(self) -> dict[str, int]:
        """Number of cells by status, and `cached`."""
        with self._lock:
            return {**self._counts, "cached": self._cached}

    def eta(self) -> float | None:
        """Seconds left at the mean speed since the first request, cached answers not counted; None before the first answer."""
        with self._lock:
            if not self._asked or self._first is None:
                return None
            left = self._counts["pending"] + self._counts["running"]
            return (time.monotonic() - self._first) / self._asked * left
