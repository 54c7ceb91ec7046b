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
        opening: What is done to have the next model answer, in words: a download, the start of a server; empty while nothing is. Only
            known in the process that executes the run.
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
    opening: str = ""
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
        counts: Number of cells by status at the beginning, when none is running, and of `cached` ones among the done.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._lock = threading.Lock()  # protects what is below
        self._counts = {name: counts[name] for name in ("pending", "running", "done", "failed")}
        self._cached = counts["cached"]
        self._running: set[str] = set()
        """Ids of the cells that are being asked for; all others that change are pending until then."""
        self._asked = 0
        self._first: float | None = None

    def apply(self, changes: Sequence[Change]) -> None:
        """Count what was committed."""
        with self._lock:
            if self._first is None:
                self._first = time.monotonic()
            for change in changes:
                self._counts["running" if change.cell_id in self._running else "pending"] -= 1
                self._counts[change.status] += 1
                if change.status == "running":
                    self._running.add(change.cell_id)
                else:
                    self._running.discard(change.cell_id)
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
