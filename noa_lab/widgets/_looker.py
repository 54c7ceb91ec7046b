"""Keeping a panel's facts fresh: one look at a time, and again only while somebody sees what changes by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from noa_lab.widgets._job import Job
from noa_lab.widgets._pump import Pump

__all__ = ["Looker"]

_BEAT = 0.5
_SEEN_SECONDS = 90.0
_REST = 10


class Looker:
    """Looks, on a worker thread; everything else of it runs on the pump's thread.

    Args:
        pump: The panel's pump.
        prepare: Returns what to call for a look; what that returns or raises goes to `saw`.
        saw: Takes the result and the error of a look.
        gap: Seconds between looks while somebody sees the panel; None when nothing changes by itself.
        working: Whether work goes on, whose progress and elapsed time have to be drawn again.
    """

    def __init__(
        self,
        pump: Pump,
        *,
        prepare: Callable[[], Callable[[], Any]],
        saw: Callable[[Any, Exception | None], None],
        gap: Callable[[], float | None],
        working: Callable[[], bool],
    ) -> None:
        self.first = threading.Event()
        """Set when the first look is over."""
        self.job: Job | None = None
        self._pump, self._prepare, self._saw, self._gap, self._working = pump, prepare, saw, gap, working
        self._again = False
        self._ended = 0.0
        self._cost = 0.0
        self._seen_until = 0.0

    def look(self) -> None:
        """Look now; when a look is under way, once more after it."""
        if self.job is not None:
            self._again = True
            return
        look = self._prepare()
        self.job = Job(
            "looking", lambda _report, _token: look(), changed=self._pump.invalidate, done=self._queue
        ).start()

    def seen(self) -> None:
        """Somebody sees the panel, or has just used it."""
        self._seen_until = time.monotonic() + _SEEN_SECONDS
        self.keep_watch()

    def keep_watch(self) -> None:
        """Be woken again while work goes on, or while somebody sees what changes by itself."""
        if self._working() or (self._gap() is not None and time.monotonic() < self._seen_until):
            self._pump.later(_BEAT, self._beat)

    def _queue(self, job: Job, result: Any, error: Exception | None) -> None:
        self._pump.submit(lambda: self._over(job, result, error))

    def _over(self, job: Job, result: Any, error: Exception | None) -> None:
        self.job = None
        self._ended = time.monotonic()
        self._cost = self._ended - job.started
        self._saw(result, error)
        self.first.set()
        self._pump.invalidate()
        if self._again:
            self._again = False
            self.look()
        self.keep_watch()

    def _beat(self) -> None:
        if self._working():
            self._pump.invalidate()
        gap, now = self._gap(), time.monotonic()
        # A look at a long run takes long: resting ten times as long keeps its share of the kernel small.
        if gap is not None and now < self._seen_until and now >= self._ended + max(gap, _REST * self._cost):
            self.look()
        self.keep_watch()
