"""Long work of a panel: one thread, cancellable, whose progress can be looked at from anywhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from noa_lab.events import CancelToken, Progress, Report

__all__ = ["Job", "amount", "pace", "seconds"]

Work = Callable[[Report, CancelToken], Any]


class Job:
    """Runs `work` on a daemon thread.

    Args:
        label: What it does, for people ("Installing llama.cpp").
        work: The work; it reports and asks its token whether to stop.
        changed: Called on the worker's thread after each report; must return at once.
        done: Called on the worker's thread at the end, with what the work returned and what it raised.
    """

    def __init__(
        self, label: str, work: Work, *, changed: Callable[[], None], done: Callable[[Job, Any, Exception | None], None]
    ) -> None:
        self.label = label
        self.token = CancelToken()
        self.progress: Progress | None = None
        self.lines: deque[str] = deque(maxlen=200)
        self.started = time.monotonic()
        self._work = work
        self._changed = changed
        self._done = done
        self._thread = threading.Thread(target=self._run, name=f"noa-lab: {label}", daemon=True)

    def start(self) -> Job:
        """Begin."""
        self._thread.start()
        return self

    def stop(self, timeout: float = 2.0) -> None:
        """Cancel, and wait for the work to notice."""
        self.token.cancel()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _report(self, progress: Progress) -> None:
        line = f"{progress.step}: {progress.message}" if progress.message else progress.step
        if not self.lines or self.lines[-1] != line:
            self.lines.append(line)
        self.progress = progress
        self._changed()

    def _run(self) -> None:
        try:
            result = self._work(self._report, self.token)
        except Exception as error:
            self._done(self, None, error)
        else:
            self._done(self, result, None)

    def words(self) -> str:
        """Where it is: step, message, amounts and the time so far."""
        now = self.progress
        parts = [] if now is None else [now.step, now.message, amount(now), *pace(now)]
        if self.token.cancelled:
            parts.append("stopping")
        elif self.token.paused:
            parts.append("paused")
        return " · ".join([part for part in parts if part] + [seconds(time.monotonic() - self.started)])


def amount(progress: Progress) -> str:
    """The amounts of a report in words: "12.5 of 98.4 MB"; "" where there are none."""
    if progress.done is None:
        return ""
    if progress.unit == "bytes":
        total = f" of {progress.total / 1e6:.1f}" if progress.total else ""
        return f"{progress.done / 1e6:.1f}{total} MB"
    total = f" of {progress.total:g}" if progress.total else ""
    return f"{progress.done:g}{total} {progress.unit}".rstrip()


def pace(progress: Progress) -> list[str]:
    """How fast it goes and how long it still takes, in words; nothing where that is not measured."""
    if not progress.rate or progress.unit != "bytes":
        return []
    left = progress.eta_seconds
    return [f"{progress.rate / 1e6:.1f} MB/s", *([f"{seconds(left)} left"] if left else [])]


def seconds(span: float) -> str:
    """A time span for people: "8 s", "3 min 20 s"."""
    minutes, rest = divmod(int(span), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
